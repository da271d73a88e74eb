"""Who acts in a failover, and what that user may do: the service's user, and the one that repmgrd runs as."""

from __future__ import annotations

import contextlib
import os
import pwd
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

READ, WRITE, ENTER = 4, 2, 1
WORDS = {
    READ: "read",
    WRITE: "write",
    READ | WRITE: "change",
    ENTER: "enter",
    WRITE | ENTER: "write to",
    READ | ENTER: "run",
}


@dataclass(frozen=True)
class User:
    """An account of this machine."""

    name: str
    uid: int
    gid: int
    groups: tuple[int, ...]
    home: str

    @property
    def is_me(self) -> bool:
        """True if this process is that user."""
        return os.geteuid() == self.uid

    @property
    def can_be_me(self) -> bool:
        """True if this process may act as that user."""
        return self.is_me or os.geteuid() == 0


def user_of(uid: int) -> User:
    """Return an account. Raises KeyError if the machine has none of that number."""
    return _user(pwd.getpwuid(uid))


def user_called(name: str) -> User | None:
    """Return an account; None if the machine has none of that name."""
    try:
        return _user(pwd.getpwnam(name))
    except KeyError:
        return None


def _user(entry: pwd.struct_passwd) -> User:
    groups = tuple(os.getgrouplist(entry.pw_name, entry.pw_gid))
    return User(entry.pw_name, entry.pw_uid, entry.pw_gid, groups, entry.pw_dir)


def owner_of(path: Path) -> User | None:
    """Return whose a file is; None if it cannot be seen, or belongs to nobody."""
    try:
        return user_of(path.stat().st_uid)
    except (OSError, KeyError):
        return None


def service_user(state_dir: Path) -> User:
    """Return who the service runs as: the owner of its state directory, else Barman's user, else we ourselves."""
    return owner_of(state_dir) or user_called("barman") or user_of(os.geteuid())


def hindrance(user: User, path: Path, want: int) -> str:
    """Return in words why a user may not do this with a file; empty if the user may.

    From the modes alone: an access list may say more. Raises OSError if we ourselves may not look.
    """
    real = path.resolve(strict=True)
    for place in reversed(real.parents):
        if not _allows(place.stat(), user, ENTER):
            return f"{user.name} may not enter {place}"
    return "" if _allows(real.stat(), user, want) else f"{user.name} may not {WORDS[want]} {path}"


def _allows(status: os.stat_result, user: User, want: int) -> bool:
    if user.uid == 0:
        return True
    shift = 6 if status.st_uid == user.uid else 3 if status.st_gid in user.groups else 0
    return (stat.S_IMODE(status.st_mode) >> shift) & want == want


@contextlib.contextmanager
def acting_as(user: User) -> Iterator[None]:
    """Be another user for a while, with the programs that are started meanwhile; nothing happens unless we are root.

    It holds for all threads. Root is kept as the saved user id, and is taken up again afterwards; but not when the user
    interrupts us: threads that are still at work would start the rest of their programs as root.
    """
    if os.geteuid() != 0 or user.uid == 0:
        yield
        return
    groups, home = os.getgroups(), os.environ.get("HOME", "/root")
    os.setgroups(user.groups)
    os.setresgid(user.gid, user.gid, 0)
    os.setresuid(user.uid, user.uid, 0)
    os.environ["HOME"] = user.home
    interrupted = False
    try:
        yield
    except KeyboardInterrupt:
        interrupted = True
        raise
    finally:
        if not interrupted:
            os.environ["HOME"] = home
            os.setresuid(0, 0, 0)
            os.setresgid(0, 0, 0)
            os.setgroups(groups)
