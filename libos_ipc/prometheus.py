"""A process's counters for Prometheus: `pip install "libos-ipc[metrics]"`, then

    from prometheus_client import start_http_server
    from libos_ipc.prometheus import register

    register(group)
    start_http_server(9100)

Nothing is counted twice, and nothing is counted for Prometheus: a scrape reads what the library
counts for itself, without asking any other process unless `group_wide` is set.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from prometheus_client.core import (
    REGISTRY,
    CollectorRegistry,
    CounterMetricFamily,
    GaugeMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from libos_ipc.errors import IpcError

if TYPE_CHECKING:
    from libos_ipc.group import Group

__all__ = ["GroupCollector", "register"]

_LABELS = ("group", "vmid")
#: Counters that only grow: name, field, help.
_GROWING = (
    ("messages_sent", "sent", "Messages sent to other processes."),
    ("messages_received", "received", "Messages received from other processes."),
    ("sent_bytes", "sent_bytes", "Bytes of the program's messages sent, headers included."),
    ("received_bytes", "received_bytes", "Bytes of the program's messages received."),
)
#: What is so now.
_NOW = (
    ("requests_outstanding", "outstanding", "Requests that wait for an answer."),
    ("messages_unacknowledged", "unacknowledged", "Messages not seen to arrive yet."),
    ("owed_bytes", "owed", "Bytes sent that the receivers' handlers have not taken up."),
    ("backlog_bytes", "backlog", "Bytes received that our handlers have not taken up."),
    ("peers", "peers", "Processes talked to."),
    ("lanes", "lanes", "Processes talked to through shared memory."),
)


class GroupCollector(Collector):
    """What one membership exports, at each scrape. After a fork it is the child's.

    With `group_wide` it asks the leader for what concerns the whole group: members, file locks,
    shared values. One process of a group should do that. A scrape then blocks for three answers of
    the leader; where these cannot be had, `libos_ipc_up` is 0 and they are left out.
    """

    def __init__(self, group: Group, *, group_wide: bool = False) -> None:
        self._group = group
        self._group_wide = group_wide

    def collect(self) -> Iterator[Metric]:
        """All metrics. Nothing at all once the group is closed."""
        if self._group.closed:
            return
        here = (self._group.name, str(self._group.vmid))
        found = self._group.counters()._asdict()
        for name, field, text in _GROWING:
            counted = CounterMetricFamily(f"libos_ipc_{name}", text, labels=_LABELS)
            counted.add_metric(here, found[field])
            yield counted
        for name, field, text in _NOW:
            yield _gauge(name, text, here, found[field])
        yield _gauge("epoch", "How many leaders the group has had.", here, self._group.epoch)
        yield self._events(here)
        if self._group_wide:
            yield from self._of_the_group(here)

    def _events(self, here: tuple[str, str]) -> Metric:
        text = "Deaths, refusals, and what was dropped, by name of the event."
        events = CounterMetricFamily("libos_ipc_events", text, labels=(*_LABELS, "event"))
        for event, count in self._group.events().items():
            events.add_metric((*here, event), count)
        return events

    def _of_the_group(self, here: tuple[str, str]) -> Iterator[Metric]:
        try:
            members = len(self._group.members())
            locks = [row for row in self._group.locks.table() if row.type != "none"]
            handles = len(self._group.sync_table())
        except IpcError:
            yield _gauge("up", "Whether the leader answers.", here, 0)
            return
        yield _gauge("up", "Whether the leader answers.", here, 1)
        yield _gauge("members", "Processes in the group.", here, members)
        waiting = sum(row.waiting for row in locks)
        yield _gauge("locks_held", "File locks held.", here, len(locks) - waiting)
        yield _gauge("locks_waiting", "Requests that wait for a file lock.", here, waiting)
        yield _gauge("sync_handles", "Shared values.", here, handles)


def _gauge(name: str, text: str, here: tuple[str, str], value: float) -> Metric:
    gauge = GaugeMetricFamily(f"libos_ipc_{name}", text, labels=_LABELS)
    gauge.add_metric(here, value)
    return gauge


def register(
    group: Group, *, group_wide: bool = False, registry: CollectorRegistry = REGISTRY
) -> GroupCollector:
    """Export this membership from `registry`. Give the result to its `unregister` to end that."""
    collector = GroupCollector(group, group_wide=group_wide)
    registry.register(collector)
    return collector
