"""The measured programs, one file each: ours, and what others offer for the same work.

Each runs as `python -m benchmarks.contenders.NAME SETUP`; see `benchmarks/contender.py`.
"""
