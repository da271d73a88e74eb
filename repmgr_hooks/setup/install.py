"""Put a draft in place: a tree that looks like the root directory. All of it is examined before anything is changed."""

from __future__ import annotations

import contextlib
import grp
import itertools
import os
import pwd
import re
import shutil
import stat
import sysconfig
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from repmgr_hooks import config
from repmgr_hooks.checks.gateways import TRACK
from repmgr_hooks.checks.sshd import ACCOUNT, KEYS
from repmgr_hooks.errors import OperationFailed, Problem, UsageError, listed, mistake
from repmgr_hooks.files import atomic_write, untrusted
from repmgr_hooks.forward import settings
from repmgr_hooks.hook import PACKAGED, PROGRAM, forwards
from repmgr_hooks.setup import access, database_host, gateways
from repmgr_hooks.setup.discover import USER
from repmgr_hooks.setup.new_confs import REPMGRD, UNKNOWN, is_conf, unfilled
from repmgr_hooks.setup.render import CONFIGURATION, SHIPPED, SUDOERS, SYSCTL, TMPFILES, UNITS, packaged
from repmgr_hooks.system.steps import Host, Program

LIMIT = 30.0
MODES = {SUDOERS: 0o440, TRACK: 0o755}
SECRET = 0o600
"""Of a draft of somebody else's file: a repmgr.conf may hold a password."""
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
SYSTEM = "/usr/sbin:/usr/bin:/sbin:/bin"
SYSTEMD_RUNS = "/run/systemd/system"  # sd_booted(3)


@dataclass(frozen=True)
class Move:
    """One file: from the draft to its place, and what stands there now."""

    draft: Path
    place: Path

    @property
    def text(self) -> str:
        """What the draft holds."""
        return self.draft.read_text()

    @property
    def there(self) -> str | None:
        """What its place holds now; None if there is no file."""
        return self.place.read_text() if self.place.exists() else None

    @property
    def ours(self) -> bool:
        """True for a file that belongs to root, and that all may read, such as a unit."""
        return str(self.place) in (*SHIPPED, *database_host.FILES, *database_host.OF_GATEWAY, *gateways.FILES, REPMGRD)

    @property
    def replaces(self) -> bool:
        """True if what stands there would be lost; to add to it loses nothing."""
        return self.there is not None and not self.text.startswith(self.there.rstrip())

    @property
    def done(self) -> bool:
        """True if nothing is to be changed."""
        if self.text != self.there:
            return False
        status = self.place.stat()
        return not self.ours or (status.st_uid, status.st_gid, status.st_mode & 0o7777) == (0, 0, self.mode)

    @property
    def mode(self) -> int:
        """The mode that a new file gets: of a repmgr.conf, that only repmgrd's group can read it."""
        return MODES.get(str(self.place), 0o644 if self.ours else 0o640)


def write(directory: Path, texts: Mapping[str, str]) -> Iterator[str]:
    """Write a draft, and say what was written; a file that somebody has changed since is left alone.

    Raises UsageError for a directory that another user could change meanwhile: root would write where that user says.
    """
    for place, text in texts.items():
        path = directory / place.lstrip("/")
        there = next(above for above in (path, *path.parents) if os.path.lexists(above))
        if wrong := untrusted(there):
            raise UsageError(str(wrong), hint=f"{wrong.hint}, or name another DIRECTORY")
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            yield (
                f"ok        {path}"
                if path.read_text() == text
                else f"CHANGED   {path}: kept; remove it to have it written again"
            )
            continue
        with atomic_write(path) as file:
            ours = Move(path, Path(place)).ours
            os.fchmod(file.fileno(), MODES.get(place, 0o644) if ours else SECRET)
            file.write(text)
        yield f"written   {path}"


def install(directory: Path, replace: bool, host: Host) -> Iterator[str]:
    """Put a draft in place, and say what was done. Raises UsageError before anything is changed; OperationFailed."""
    drafts = sorted(path for path in (directory / "etc").rglob("*") if path.is_file())
    moves = [Move(path, Path("/", path.relative_to(directory))) for path in drafts]
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


def examine(directory: Path, moves: Sequence[Move], replace: bool, host: Host) -> None:
    """Say what is wrong with a draft. Raises UsageError with all of it."""
    others = [found for path in (directory, *(move.draft for move in moves)) if (found := untrusted(path))]
    if others:
        said = dict.fromkeys(map(str, others))
        hint = "; ".join(dict.fromkeys(wrong.hint for wrong in others if wrong.hint))
        raise UsageError("\n  ".join([f"{directory} is refused:", *said]), hint=hint)
    on_gateway = not is_database_hosts(directory)
    if wrong := list(_not_installable(moves, replace, on_gateway)):
        raise UsageError(listed(f"{directory} cannot be installed, and nothing was changed:", wrong))
    if not on_gateway:
        settings.load(drafted(directory, CONFIGURATION))
        return
    config.load(drafted(directory, CONFIGURATION))
    try:
        host.run(Program(("visudo", "-c", "-f", str(drafted(directory, SUDOERS)))), LIMIT)
    except OperationFailed as error:
        raise UsageError(f"{error}; nothing was changed") from None


def _of_package(place: str, on_gateway: bool) -> bool:
    """True if a package has this file; its tmpfiles.d is a gateway's."""
    return packaged(place).exists() and (on_gateway or place != TMPFILES)


def is_database_hosts(directory: Path) -> bool:
    """True for the draft of a database host, which hands its events to gateways."""
    return forwards(str(drafted(directory, CONFIGURATION)))


def _not_installable(moves: Sequence[Move], replace: bool, on_gateway: bool) -> Iterator[Problem]:
    for place in SHIPPED if on_gateway else database_host.FILES:
        if Path(place) not in [move.place for move in moves] and not _of_package(place, on_gateway):
            yield mistake(f"{place} is not in it")
    for move in moves:
        if not move.ours and move.there is None and not is_conf(move.place):
            yield mistake(f"{move.draft} has no place here")
        if is_conf(move.place) and (left := unfilled(move.text)):
            yield mistake(f"{move.draft} has {UNKNOWN} in {' and '.join(left)}", "write where it is on the node")
        if str(move.place) == KEYS and access.NO_KEY in move.text:
            hint = "on each of them 'init --install' shows the command to type here"
            yield mistake(f"{move.draft} lacks the keys of the database hosts", hint)
        if str(move.place) == KEYS and not shutil.which("sshd", path=SYSTEM):
            yield mistake("sshd is not here, through which database hosts hand events over", "install openssh-server")
        if move.replaces and not replace:
            yield mistake(f"{move.place} would be replaced", f"see diff {move.place} {move.draft}; then use --replace")
    if not on_gateway and not shutil.which("ssh-keygen"):
        yield mistake("ssh is not here, with which events are handed over", "install openssh-client")
    try:
        _ = on_gateway and pwd.getpwnam(USER)
    except KeyError:
        yield mistake(f"there is no user {USER}, who runs the service", "install Barman")


def drafted(directory: Path, place: str) -> Path:
    """Return where a draft has the file for this place, if it has one."""
    return directory / place.lstrip("/")


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
    if found := re.search(r"^d\s+\S+\s+\S+\s+(\S+)\s+(\S+)", draft.read_text(), re.MULTILINE):
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
