"""A rate limiter that all processes of a group share: so many calls a second, whoever makes them.

    python examples/rate_limiter.py [--workers N] [--rate N] [--burst N] [--seconds N]

The limiter is one number in the group: the time up to which calls have been granted. Whoever
wants to call takes the next place and sleeps until it has come, so that waiting costs nothing
and holds up nobody. It works from threads, and, with `async with limiter`, from asyncio. A
process that is killed leaves nothing behind but a place: one is, to show it. All calls are
reported, and at the end it is reckoned how far they were ever ahead of the rate.
"""

import argparse
import asyncio
import time

import libos_ipc

CALLED = 64  # to the founder: I have called, at this time


class RateLimiter:
    """`with limiter:` waits for its turn: `rate` a second, and `burst` at once after a pause."""

    def __init__(self, group, name, rate, burst=1):
        self.every = 1 / rate
        self.saved = burst * self.every
        self.granted = group.sync(f"rate limit: {name}", type=float)  # as time.monotonic

    def take(self, box):
        now = time.monotonic()
        box.value = max(box.value, now - self.saved) + self.every
        return max(box.value - now, 0)

    def __enter__(self):
        with self.granted.exclusive() as box:
            wait = self.take(box)
        time.sleep(wait)

    async def __aenter__(self):
        async with self.granted.exclusive() as box:
            wait = self.take(box)
        await asyncio.sleep(wait)

    def __exit__(self, *_):
        pass

    async def __aexit__(self, *_):
        pass


def work(group, args, start):
    limiter = RateLimiter(group, "calls", args.rate, args.burst)
    while time.monotonic() < start + args.seconds:
        with limiter:
            group.request(group.parent_vmid, CALLED, (time.monotonic(), group.pid))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--rate", type=float, default=50.0)
    parser.add_argument("--burst", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0)
    args = parser.parse_args()
    calls = []
    with libos_ipc.Group.create() as group:
        group.on(CALLED, tuple[float, int])(lambda call, message: calls.append(call))
        start = time.monotonic()
        workers = [group.spawn(work, group, args, start) for _ in range(args.workers)]
        time.sleep(args.seconds / 2)
        workers[0].kill()
        assert [worker.wait().code for worker in workers] == [None] + [0] * (args.workers - 1)
    calls.sort()
    ahead = max(n - args.rate * (at - start) for n, (at, _) in enumerate(calls, 1))
    print(f"{len({pid for _, pid in calls})} processes made {len(calls)} calls; one was killed")
    print(f"at most {max(ahead, 0):.1f} ahead of {args.rate:g} a second; {args.burst} may be")


if __name__ == "__main__":
    main()
