"""Put a draft in place: a tree that looks like the root directory. All of it is examined before anything is changed."""

from __future__ import annotations

import itertools
import os
import pwd
import shutil
import sysconfig
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from repmgr_hooks import config
from repmgr_hooks.errors import OperationFailed, UsageError
from repmgr_hooks.files import atomic_write
from repmgr_hooks.hook import PROGRAM
from repmgr_hooks.setup.render import CONFIGURATION, SHIPPED, SUDOERS, SYSCTL, TMPFILES, UNITS
from repmgr_hooks.system.steps import Host, Program

LIMIT = 30.0
MODES = {SUDOERS: 0o440}
USER = "barman"
PASSFILE = "/etc/repmgr-hooks/pgpass"
OLD = ".before-repmgr-hooks"
SYSTEMD_RUNS = "/run/systemd/system"  # sd_booted(3)


@dataclass(frozen=True)
class Move:
    """One file: from the draft to its place, and what stands there now."""

    draft: Path
    place: Path

    @property
    def text(self) -> str:
        return self.draft.read_text()

    @property
    def there(self) -> str | None:
        return self.place.read_text() if self.place.exists() else None

    @property
    def ours(self) -> bool:
        return str(self.place) in SHIPPED

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
        return MODES.get(str(self.place), 0o644)


def write(directory: Path, texts: Mapping[str, str]) -> Iterator[str]:
    """Write a draft, and say what was written; a file that somebody has changed since is left alone."""
    for place, text in texts.items():
        path = directory / place.lstrip("/")
        if path.exists():
            yield (
                f"as is     {path}"
                if path.read_text() == text
                else f"CHANGED   {path}: kept; remove it to have it anew"
            )
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(MODES.get(place, 0o644))
        yield f"written   {path}"


def install(directory: Path, replace: bool, host: Host) -> Iterator[str]:
    """Put a draft in place, and say what was done. Raises UsageError before anything is changed; OperationFailed."""
    drafts = sorted(path for path in (directory / "etc").rglob("*") if path.is_file())
    moves = [Move(path, Path("/", path.relative_to(directory))) for path in drafts]
    examine(directory, moves, replace, host)
    yield link()
    for unit in UNITS:
        host.run(Program(("systemd-analyze", "verify", str(directory / unit.lstrip("/")))), LIMIT)
    for move in moves:
        yield f"as is     {move.place}" if move.done else put(move)
    yield passfile()
    host.run(Program(("systemd-tmpfiles", "--create", TMPFILES)), LIMIT)
    host.run(Program(("sysctl", "--quiet", "--load", SYSCTL)), LIMIT)
    if Path(SYSTEMD_RUNS).is_dir():
        host.run(Program(("systemctl", "daemon-reload")), LIMIT)


def examine(directory: Path, moves: Sequence[Move], replace: bool, host: Host) -> None:
    """Say what is wrong with a draft. Raises UsageError with all of it."""
    wrong = [f"{place} is not in it" for place in SHIPPED if Path(place) not in [move.place for move in moves]]
    wrong += [f"{move.draft} has no place here" for move in moves if not move.ours and move.there is None]
    if not replace:
        wrong += [
            f"{move.place} would be replaced: see diff {move.place} {move.draft}; then say --replace"
            for move in moves
            if move.replaces
        ]
    try:
        pwd.getpwnam(USER)
    except KeyError:
        wrong.append(f"there is no user {USER}, who runs the service; install Barman")
    if wrong:
        raise UsageError("\n  ".join([f"{directory} cannot be installed, and nothing was changed:", *wrong]))
    config.load(directory / CONFIGURATION.lstrip("/"))
    try:
        host.run(Program(("visudo", "-c", "-f", str(directory / SUDOERS.lstrip("/")))), LIMIT)
    except OperationFailed as error:
        raise UsageError(f"{error}; nothing was changed") from None


def link() -> str:
    """Let the program be where repmgr.conf, sudoers and the units look for it."""
    if os.path.lexists(PROGRAM):
        return f"as is     {PROGRAM}"
    Path(PROGRAM).symlink_to(Path(sysconfig.get_path("scripts"), "repmgr-hooks"))
    return f"linked    {PROGRAM}"


def put(move: Move) -> str:
    """Write one file in one go; what stood there and is not kept in it stays beside it."""
    said = f"installed {move.place}"
    move.place.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(move.place) as file:
        if move.ours:
            os.fchmod(file.fileno(), move.mode)
        else:
            status = move.place.stat()
            os.fchown(file.fileno(), status.st_uid, status.st_gid)
            shutil.copystat(move.place, file.name)
        file.write(move.text)
        if move.replaces:
            old = _unused(move.place.with_name(move.place.name + OLD))
            said = f"replaced  {move.place}; the old one is {old}"
            shutil.copy2(move.place, old)
    return said


def _unused(path: Path) -> Path:
    """Return the path, or with a number if something stands there: what was kept is never overwritten."""
    numbered = (path.with_name(f"{path.name}.{number}") for number in itertools.count(2))
    return next(name for name in itertools.chain([path], numbered) if not name.exists())


def passfile() -> str:
    """Make an empty file for the password, that none but the service can read."""
    path = Path(PASSFILE)
    if path.exists():
        return f"as is     {path}"
    path.touch(0o600)
    shutil.chown(path, USER, USER)
    return f"made      {path}: empty"
