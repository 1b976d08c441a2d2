"""The table of outstanding requests as one dict, searched from end to end."""

from __future__ import annotations


class OutstandingTwin:
    """Does what `Outstanding` does, in no hurry."""

    def __init__(self) -> None:
        self.last = 0
        self.requests: dict[int, tuple[int, object]] = {}

    def __len__(self) -> int:
        return len(self.requests)

    def add(self, peer: int, ticket: object) -> int:
        self.last += 1
        self.requests[self.last] = (peer, ticket)
        return self.last

    def take(self, seq: int, peer: int) -> object:
        return self.discard(seq) if self.peer_of(seq) == peer else None

    def discard(self, seq: int) -> object:
        return self.requests.pop(seq, (None, None))[1]

    def peer_of(self, seq: int) -> int | None:
        return self.requests.get(seq, (None, None))[0]

    def of_peer(self, peer: int) -> list[tuple[int, object]]:
        return [(seq, ticket) for seq, (asked, ticket) in self.requests.items() if asked == peer]

    def move(self, seq: int, peer: int) -> bool:
        found = self.requests.pop(seq, None)
        if found is not None:
            self.requests[seq] = (peer, found[1])
        return found is not None

    def fail_peer(self, peer: int) -> list[object]:
        return [self.discard(seq) for seq in list(self.requests) if self.peer_of(seq) == peer]

    def drain(self) -> list[object]:
        return [self.discard(seq) for seq in sorted(self.requests)]
