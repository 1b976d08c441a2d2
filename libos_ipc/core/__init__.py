"""The pure middle: every decision of the library, and no operating system.

A machine here takes an input and the time, changes itself, and returns effects for somebody
else to perform. Nothing waits, nothing logs, nothing reads a clock, so the whole library also
runs inside one process under a simulated network.
"""
