"""The operating system, as far as the library asks it.

Processes with OS pids that are used again; one *port* per VMID, which stands for a process's
two listening sockets (messages and liveness), held by every process that inherited them; and
the two words of an end that a watcher may hear: the last holder of a port is gone (death or
exec), and a process is dead (its pidfd). Each is heard after a while, by each watcher on its
own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .network import Connection
    from .node import SimNode
    from .world import World

__all__ = ["Kernel", "OsProcess", "Port"]


class OsProcess:
    """A process: OS pid and start time name it."""

    __slots__ = (
        "alive",
        "node",
        "os_pid",
        "pid",
        "returns",
        "start_time",
        "stopped_until",
        "watchers",
    )

    def __init__(self, os_pid: int, start_time: int) -> None:
        self.os_pid = os_pid
        self.start_time = start_time
        self.alive = True
        self.stopped_until = 0.0
        #: what it was in the group when it exec'ed, and is to be again
        self.pid = 0
        #: without a membership, it is about to get one
        self.returns = True
        #: its membership, if it has one
        self.node: SimNode | None = None
        self.watchers: list[tuple[SimNode, int]] = []


class Port:
    """The listening sockets of one VMID."""

    __slots__ = ("connections", "holders", "node", "owner", "vmid", "watchers")

    def __init__(self, vmid: int, holder: OsProcess) -> None:
        self.vmid = vmid
        self.holders = [holder]
        #: whom the kernel names as the one who listens
        self.owner = holder
        #: who reads from it; nobody yet while a forked child has not come so far
        self.node: SimNode | None = None
        self.connections: list[Connection] = []
        self.watchers: list[SimNode] = []


class Kernel:
    """All processes and ports."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._started = 0
        self.processes: list[OsProcess] = []
        self.ports: dict[int, Port] = {}

    # ---- processes

    def start(self) -> OsProcess:
        """A new process. Its OS pid may have been another's before."""
        self._started += 1
        taken = {process.os_pid for process in self.processes}
        os_pid = next(pid for pid in range(100 + self._started % 7, 1000) if pid not in taken)
        process = OsProcess(os_pid, self._started)
        self.processes.append(process)
        return process

    def fork(self, parent: OsProcess) -> OsProcess:
        """A copy of `parent`, which holds every port that the parent holds."""
        child = self.start()
        for port in self.ports.values():
            if parent in port.holders:
                port.holders.append(child)
        return child

    def kill(self, process: OsProcess) -> None:
        """End a process at once."""
        world = self._world
        process.alive = False
        self.processes.remove(process)
        if process.node is not None:
            process.node.vanish()
        self.close_all(process)
        for watcher, vmid in process.watchers:
            self._tell(watcher, vmid, True)
        world.say("kill", process.os_pid)

    def find(self, os_pid: int, start_time: int) -> OsProcess | None:
        """The live process of this pid and start time."""
        for process in self.processes:
            if (process.os_pid, process.start_time) == (os_pid, start_time):
                return process
        return None

    # ---- ports

    def listen(self, vmid: int, process: OsProcess) -> Port:
        """Make the port of a VMID."""
        assert vmid not in self.ports, f"two processes listen as VMID {vmid}"
        port = self.ports[vmid] = Port(vmid, process)
        return port

    def close(self, port: Port, process: OsProcess) -> None:
        """One holder less; with the last one the port is gone, and watchers hear of it."""
        if process not in port.holders:
            return
        port.holders.remove(process)
        if port.holders:
            return
        del self.ports[port.vmid]
        for watcher in port.watchers:
            self._tell(watcher, port.vmid, False)
        self._world.network.refuse_all(port)

    def close_all(self, process: OsProcess) -> None:
        """What death and exec do to descriptors."""
        for port in list(self.ports.values()):
            self.close(port, process)

    # ---- watching

    def watch_port(self, watcher: SimNode, vmid: int) -> bool:
        """Connect to a liveness socket. False if nobody listens."""
        port = self.ports.get(vmid)
        if port is None:
            return False
        port.watchers.append(watcher)
        return True

    def watch_process(self, watcher: SimNode, vmid: int, process: OsProcess | None) -> bool:
        """Open a pidfd. False if the process is gone."""
        if process is None or not process.alive:
            return False
        process.watchers.append((watcher, vmid))
        return True

    def _tell(self, watcher: SimNode, vmid: int, dead: bool) -> None:
        world = self._world
        world.soon(world.knobs.notice_s, lambda: watcher.hear_of_end(vmid, dead), watcher.process)
