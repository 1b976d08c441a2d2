"""Where a group lives in the file system, and who may live there.

    <runtime dir>/            0700, ours
      <group>/                0700, ours
        lock                  who leads, and who may: POSIX locks (`lock_file.py`)
        group                 who leads, written once the leader answers
        journal-<epoch>       what the leader of this epoch granted (`journal_file.py`)
        <vmid>.msg            a member's ZeroMQ socket
        <vmid>.live           a member's liveness socket

The boundary is the user: a directory that belongs to somebody else, that others may write, or
that is a symbolic link, is refused on every use. The runtime directory lies in memory
(`$XDG_RUNTIME_DIR`, else `/dev/shm`), so nothing here outlives the machine's run. What a dead
group left behind is recognised by its free locks, and removed by the next group of that name.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from libos_ipc.errors import (
    GroupExists,
    InvalidArgument,
    IpcError,
    LeaderLost,
    NotJoined,
    PermissionDenied,
)
from libos_ipc.runtime.lock_file import LockFile

if TYPE_CHECKING:
    from libos_ipc.runtime.group_file import GroupFile

__all__ = ["GroupDir", "default_runtime_dir"]

#: Bytes of a Unix socket's path, without the terminating NUL.
SOCKET_PATH_BYTES = 107
#: Bytes of the longest file name that we append to a group's directory.
LONGEST_SOCKET_NAME = len("/4294967295.live")
NAME_BYTES = 64


def default_runtime_dir() -> str:
    """The runtime directory used when none is given: in memory, one per user."""
    base = os.environ.get("XDG_RUNTIME_DIR")
    if base and os.path.isdir(base) and os.stat(base).st_uid == os.getuid():
        return os.path.join(base, "libos_ipc")
    shm = "/dev/shm" if os.path.isdir("/dev/shm") else "/tmp"
    return f"{shm}/libos_ipc-{os.getuid()}"


class GroupDir:
    """One group's directory. Opening it checks it; nothing is kept open but the lock file."""

    def __init__(self, runtime_dir: str | os.PathLike[str] | None, name: str) -> None:
        self.name = _checked_name(name)
        self.runtime_dir = os.path.abspath(os.fspath(runtime_dir or default_runtime_dir()))
        self.path = os.path.join(self.runtime_dir, name)
        size = len(os.fsencode(self.path)) + LONGEST_SOCKET_NAME
        if size > SOCKET_PATH_BYTES:
            raise InvalidArgument(
                errno.ENAMETOOLONG,
                f"{self.path} is too long for a socket ({size} of {SOCKET_PATH_BYTES} bytes): "
                "choose a shorter group name or runtime_dir",
            )
        self.lock = LockFile(self._file("lock"))

    @contextmanager
    def room(self) -> Iterator[None]:
        """Around what makes files here: the error where there is no room for them."""
        try:
            yield
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            raise IpcError(
                errno.ENOSPC,
                f"the file system of {self.runtime_dir} is full: free some of it, or give "
                "another runtime_dir",
            ) from error

    # ---- founding

    def claim(self) -> None:
        """Make the directory ours and take the leader's lock, or raise GroupExists."""
        _make_private(self.runtime_dir, parents=True)
        _make_private(self.path)
        if not self.lock.found():
            raise GroupExists(
                f"a group named {self.name!r} is alive in {self.runtime_dir}: "
                "join it, or choose another name"
            )
        self._sweep()

    def publish(self, file: GroupFile) -> None:
        """Write the file `group`, at once or not at all."""
        with open(self._file("group.new"), "wb", opener=_private) as draft:
            draft.write(file.encode())
        os.rename(self._file("group.new"), self._file("group"))

    def remove_if_dead(self) -> None:
        """Remove what is left of a group that nobody leads any more, and nobody could."""
        try:
            if os.path.exists(self._file("lock")) and self.lock.found():
                self.remove()
        except OSError:
            pass  # it was removed meanwhile, or is not ours

    def remove(self) -> None:
        """The group is over: remove its files, and give the locks back last."""
        try:
            self._sweep()
            os.unlink(self._file("lock"))
            os.rmdir(self.path)
        except OSError:
            pass  # removed under us, or no longer ours: nothing of the group is left to lose
        finally:
            self.lock.close()

    def _file(self, name: str) -> str:
        return f"{self.path}/{name}"

    def _sweep(self) -> None:
        for name in os.listdir(self.path):
            if name != "lock":
                _remove(self._file(name))

    # ---- joining

    def read(self) -> GroupFile:
        """The file `group`. NotJoined if there is no such group, LeaderLost if nobody leads it."""
        from libos_ipc.runtime.group_file import GroupFile  # not loaded before a leader is started

        check_private(self.runtime_dir, must_exist=False)
        check_private(self.path, must_exist=False)
        try:
            with open(self._file("group"), "rb") as file:
                data = file.read()
        except (FileNotFoundError, NotADirectoryError):
            raise NotJoined(
                f"there is no group named {self.name!r} in {self.runtime_dir}: it has ended, or "
                "was never founded; found it with Group.create, or give the right runtime_dir"
            ) from None
        try:
            found = GroupFile.decode(data)
        except ValueError as error:
            raise IpcError(errno.EPROTO, f"{self._file('group')} is damaged: {error}") from None
        if not self.is_led(found.epoch):
            raise LeaderLost(
                f"nobody leads the group {self.name!r} in {self.runtime_dir} any more; "
                "found it anew with Group.create"
            )
        return found

    def is_led(self, epoch: int) -> bool:
        """Whether somebody leads this epoch, or could lead the next."""
        return self.lock.holder(epoch) != 0 or self.lock.is_there_an_heir()

    def journal(self, epoch: int) -> str:
        """Path of what the leader of this epoch granted."""
        return self._file(f"journal-{epoch}")

    # ---- sockets

    def message_socket(self, vmid: int) -> str:
        """Path of a member's ZeroMQ socket."""
        return f"{self.path}/{vmid}.msg"

    def live_socket(self, vmid: int) -> str:
        """Path of a member's liveness socket."""
        return f"{self.path}/{vmid}.live"

    def has_left(self, vmid: int) -> bool:
        """Whether a member has taken its sockets away itself: death and exec leave their files."""
        return not os.path.lexists(self.live_socket(vmid))

    def slabs(self, vmid: int) -> str:
        """Path of what a member has committed, to which a number is added."""
        return f"{self.path}/{vmid}.slab-"

    def slots(self, vmid: int) -> str:
        """Path of the slots of the files that were given to a member to lock."""
        return f"{self.path}/{vmid}.slots"

    def deposits(self, vmid: int) -> str:
        """Path of what a member has of sync handles and does not use."""
        return f"{self.path}/{vmid}.deposits"

    def seen(self) -> set[int]:
        """The VMIDs of which there is any file: all that listen are among them."""
        first = (name.partition(".")[0] for name in os.listdir(self.path))
        return {int(name) for name in first if name.isdecimal()}

    def forget(self, vmid: int) -> None:
        """Remove the sockets, slots, slabs and deposits of a member that is gone."""
        for path_of in (self.message_socket, self.live_socket, self.slots, self.deposits):
            _remove(path_of(vmid))
        number = 0
        while os.path.lexists(slab := f"{self.slabs(vmid)}{number}"):
            _remove(slab)
            number += 1


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)


def _remove(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass  # never made, or removed by the member that left at the same time


def check_private(path: str, *, must_exist: bool = True) -> None:
    """Raise PermissionDenied unless `path` is a directory of ours that only we may use."""
    try:
        info = os.lstat(path)
    except FileNotFoundError:
        if must_exist:
            raise
        return
    if not stat.S_ISDIR(info.st_mode):
        raise PermissionDenied(
            f"{path} is no directory (a symbolic link is not followed): remove it, or give "
            "another runtime_dir"
        )
    if info.st_uid != os.getuid():
        raise PermissionDenied(
            f"{path} belongs to user {info.st_uid}, not to {os.getuid()}: give a runtime_dir "
            "of your own"
        )
    if stat.S_IMODE(info.st_mode) & 0o077:
        raise PermissionDenied(
            f"{path} is open to other users (mode {stat.S_IMODE(info.st_mode):04o}): "
            "chmod 700 it, or give another runtime_dir"
        )


def _make_private(path: str, *, parents: bool = False) -> None:
    try:
        (os.makedirs if parents else os.mkdir)(path, 0o700)
    except FileExistsError:
        pass  # something that is no directory: the check names it
    except PermissionError as error:
        raise PermissionDenied(f"cannot make {path}: {error.strerror}") from None
    except OSError as error:
        raise IpcError(error.errno or errno.EIO, f"cannot make {path}: {error.strerror}") from None
    check_private(path)


def _checked_name(name: object) -> str:
    if not isinstance(name, str):
        raise InvalidArgument(f"a group's name is a str, not {type(name).__name__}")
    if not name or name in (".", "..") or "/" in name or not name.isprintable() or ":" in name:
        raise InvalidArgument(
            f"{name!r} is no name for a group: it must be printable, without '/' and ':'"
        )
    if len(os.fsencode(name)) > NAME_BYTES:
        raise InvalidArgument(f"the group name {name[:20]!r}… is over {NAME_BYTES} bytes long")
    return name
