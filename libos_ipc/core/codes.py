"""The numbers of all messages. 19 … 63 are this library's additions; 64 … 255 are the users'."""

from __future__ import annotations

from enum import IntEnum

__all__ = ["FIRST_USER_CODE", "LAST_USER_CODE", "LEADER", "Code"]

FIRST_USER_CODE = 64
LAST_USER_CODE = 255
#: As a receiver: whoever leads, or will lead next, when the message goes out.
LEADER = 0


class Code(IntEnum):
    """What a message is; layouts and answers stand in `libos_ipc.wire`."""

    RESP = 0
    GET_NEW_VMID = 1
    CHILDEXIT = 2
    ALLOC_ID_RANGE = 3
    RELEASE_ID_RANGE = 4
    CHANGE_ID_OWNER = 5
    GET_ID_OWNER = 6
    PID_KILL = 7
    PID_GETMETA = 8
    SYNC_REQUEST_UPGRADE = 9
    SYNC_REQUEST_DOWNGRADE = 10
    SYNC_REQUEST_CLOSE = 11
    SYNC_CONFIRM_UPGRADE = 12
    SYNC_CONFIRM_DOWNGRADE = 13
    SYNC_CONFIRM_CLOSE = 14
    FILE_LOCK_SET = 15
    FILE_LOCK_GET = 16
    FILE_LOCK_CLEAR_PID = 17
    ERROR = 18
    HELLO = 19
    JOIN = 20
    LEAVE = 21
    ACK = 22
    CREDIT = 23
    PROBE = 24
    CANCEL = 25
    GET_MEMBERS = 26
    CHILD_STARTED = 27
    CHILD_LOST = 28
    CHILD_JOINED = 29
    GET_PROCESS = 30
    SET_CAUGHT = 31
    SET_PGID = 32
    PGID_CHANGED = 33
    SET_THREAD = 34
    SET_META = 35
    GET_META = 36
    FILE_LOCK_TAKE = 37
    FILE_LOCK_WITHDRAW = 38
    FILE_LOCK_TABLE = 39
    HANDLE_AT = 40
    HANDLE_DROPPED = 41
    HANDLE_CLOSED = 42
    SYNC_OPEN = 43
    SYNC_WITHDRAW = 44
    SYNC_IN_USE = 45
    SYNC_LOCAL_WAIT = 46
    SYNC_REFUSE = 47
    SYNC_RESUME = 48
    SYNC_TABLE = 49
    FILE_DELEGATED = 50
    FILE_RECALLED = 51
    FILE_RETURNED = 52
    LANE_OFFER = 53
    LANE_TAKEN = 54
    LANE_OPEN = 55
    TRADE_ID_RANGES = 56
    PING = 57
    BACK = 58
    NEW_EPOCH = 59
    FILE_IN_TURNS = 60
