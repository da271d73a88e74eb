"""The capabilities that root keeps when it becomes the service's user, by the calls that Python has not."""

from __future__ import annotations

import ctypes
import os

# linux/capability.h, linux/prctl.h
CAP_NET_ADMIN, CAP_NET_RAW = 12, 13
CAPABILITIES = 1 << CAP_NET_ADMIN | 1 << CAP_NET_RAW
CAPABILITY_VERSION_3 = 0x20080522
PR_SET_KEEPCAPS, PR_SET_NO_NEW_PRIVS, PR_CAP_AMBIENT = 8, 38, 47
PR_CAP_AMBIENT_RAISE = 2

LIBC = ctypes.CDLL(None, use_errno=True)


def keep_over_setuid() -> None:
    """Let setuid(2) take none away."""
    _prctl(PR_SET_KEEPCAPS, 1)


def gain_no_more() -> None:
    """Let no program that is started gain any (PR_SET_NO_NEW_PRIVS)."""
    _prctl(PR_SET_NO_NEW_PRIVS, 1)


def keep_two() -> None:
    """Keep two, for us and for the programs that we start: ambient ones survive execve(2) (capabilities(7)).

    In a container root itself may have fewer. The bounding set stays: with no_new_privs no program gains any.
    """
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION_3, 0)
    sets = (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable; the same for capabilities from 32
    _checked(LIBC.capget(header, sets))
    kept = sets[1] & CAPABILITIES
    _checked(LIBC.capset(header, (ctypes.c_uint32 * 6)(kept, kept, kept, 0, 0, 0)))
    for capability in (CAP_NET_ADMIN, CAP_NET_RAW):
        if kept & 1 << capability:
            _prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, capability)


def _prctl(option: int, *values: int) -> None:
    words = [ctypes.c_ulong(value) for value in (*values, 0, 0, 0, 0)[:4]]
    _checked(LIBC.prctl(ctypes.c_int(option), *words))


def _checked(result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
