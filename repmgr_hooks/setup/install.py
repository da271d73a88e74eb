"""Put a draft in place."""

from __future__ import annotations

import contextlib
import grp
import itertools
import os
import pwd
import re
import stat
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from repmgr_hooks.checks.sshd import ACCOUNT, KEYS
from repmgr_hooks.errors import UsageError
from repmgr_hooks.files import atomic_write, text_of
from repmgr_hooks.forward import settings
from repmgr_hooks.hook import PACKAGED, PROGRAM
from repmgr_hooks.setup import access, database_host
from repmgr_hooks.setup.draft import LIMIT, Move, drafted, examine, is_database_hosts, moves_of
from repmgr_hooks.setup.render import CONFIGURATION, SYSCTL, TMPFILES, UNITS, packaged
from repmgr_hooks.system.steps import Host, Program

LOCAL = "/usr/local"
MANUAL = (
    "share/man/man1/repmgr-hooks.1",
    "share/man/man5/repmgr-hooks.yaml.5",
    "share/bash-completion/completions/repmgr-hooks",
    "share/zsh/site-functions/_repmgr-hooks",
)
"""Where manual pages and shell completion are below the environment, and below LOCAL."""
PASSFILE = "/etc/repmgr-hooks/pgpass"
OLD = ".before-repmgr-hooks"
SYSTEMD_RUNS = "/run/systemd/system"  # sd_booted(3)


def install(directory: Path, replace: bool, host: Host) -> Iterator[str]:
    """Put a draft in place, and say what was done. Raises UsageError before anything is changed; OperationFailed."""
    moves = moves_of(directory)
    examine(directory, moves, replace, host)
    on_gateway = not is_database_hosts(directory)
    if on_gateway and drafted(directory, KEYS).exists():
        yield from access.account(ACCOUNT, spools_owner(directory)[1], host)
    group = repmgrds_group(directory) if any(move.there is None and not move.ours for move in moves) else 0
    yield from links()
    for unit in (drafted(directory, unit) for unit in (UNITS if on_gateway else (database_host.UNIT,))):
        if unit.exists():
            host.run(Program(("systemd-analyze", "verify", str(unit))), LIMIT)
    for move in moves:
        yield f"ok        {move.place}" if move.done else put(move, group)
    if on_gateway:
        yield passfile(spools_owner(directory)[0])
    host.run(Program(("systemd-tmpfiles", "--create", str(in_force(TMPFILES)))), LIMIT)
    if on_gateway:
        host.run(Program(("sysctl", "--quiet", "--load", str(in_force(SYSCTL)))), LIMIT)
    if Path(SYSTEMD_RUNS).is_dir():
        host.run(Program(("systemctl", "daemon-reload")), LIMIT)
    if not on_gateway:
        loaded = settings.load(drafted(directory, CONFIGURATION))
        yield from access.keys(access.identity_files(loaded.gateways), spools_owner(directory)[0], host)


def in_force(place: str) -> Path:
    """Return the file that counts: what stands in /etc, else that of a package."""
    return Path(place) if Path(place).exists() else packaged(place)


def links() -> Iterator[str]:
    """Let the program be where repmgr.conf, sudoers and the units look for it, its manual where ``man`` does."""
    if PACKAGED:
        return
    data = Path(sysconfig.get_path("data"))
    made = {Path(LOCAL, name): data / name for name in MANUAL if (data / name).is_file()}
    for place, there in {Path(PROGRAM): Path(sysconfig.get_path("scripts"), "repmgr-hooks"), **made}.items():
        if os.path.lexists(place):
            yield f"ok        {place}"
            continue
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(there)
        yield f"linked    {place}"


def repmgrds_group(directory: Path) -> int:
    """Return whose group the spool gets by the draft, which somebody has reviewed. Raises UsageError."""
    name = spools_owner(directory)[1]
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        draft = drafted(directory, TMPFILES)
        raise UsageError(f"{draft} names the group {name}, which is not here", hint="correct it") from None


def spools_owner(directory: Path) -> tuple[str, str]:
    """Return the user and the group that the spool gets by the draft. Raises UsageError."""
    draft = drafted(directory, TMPFILES)
    draft = draft if draft.exists() else in_force(TMPFILES)
    if found := re.search(r"^d\s+\S+\s+\S+\s+(\S+)\s+(\S+)", text_of(draft), re.MULTILINE):
        return found[1], found[2]
    raise UsageError(f"{draft} does not name the owner and the group of the spool", hint="correct it")


def put(move: Move, group: int = 0) -> str:
    """Write one file in one go; what it replaces is kept next to it, unless the new text contains it.

    ``group``: who else may read a new repmgr.conf.
    """
    said = f"installed {move.place}"
    move.place.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(move.place) as file:
        if move.ours:
            os.fchmod(file.fileno(), move.mode)
        elif move.there is None:
            os.fchown(file.fileno(), 0, group)
            os.fchmod(file.fileno(), move.mode)
        else:
            status = move.place.stat()
            os.fchown(file.fileno(), status.st_uid, status.st_gid)
            os.fchmod(file.fileno(), stat.S_IMODE(status.st_mode))
        file.write(move.text)
        if move.replaces:
            said = f"replaced  {move.place}; the old one is {keep(move.place)}"
    return said


def keep(place: Path) -> Path:
    """Give a file another name too, with a number if that is taken: what was kept is never overwritten.

    It is not copied: others may own it and its directory, and it may hold a password.
    """
    first = place.with_name(place.name + OLD)
    for name in itertools.chain([first], (first.with_name(f"{first.name}.{number}") for number in itertools.count(2))):
        with contextlib.suppress(FileExistsError):
            os.link(place, name, follow_symlinks=False)
            return name
    raise AssertionError("unreachable")


def passfile(user: str) -> str:
    """Make an empty file for the password; one that is there is made such that none but the service can read it.

    A link stays as it is: what it leads to may be another program's, such as repmgr's own .pgpass.
    """
    path, owner = Path(PASSFILE), pwd.getpwnam(user)
    if there := os.path.lexists(path):
        status = path.lstat()
        if not stat.S_ISREG(status.st_mode) or (status.st_uid, stat.S_IMODE(status.st_mode)) == (owner.pw_uid, 0o600):
            return f"ok        {path}"
    path.touch(0o600)
    path.chmod(0o600)
    os.chown(path, owner.pw_uid, owner.pw_gid)
    return f"changed   {path}: owner {user}, mode 0600" if there else f"made      {path}: empty"
