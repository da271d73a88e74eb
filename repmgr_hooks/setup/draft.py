"""A draft: a tree that looks like the root directory; and what is wrong with it, before anything is changed."""

from __future__ import annotations

import os
import pwd
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from repmgr_hooks import config
from repmgr_hooks.checks.gateways import TRACK
from repmgr_hooks.checks.sshd import KEYS
from repmgr_hooks.cluster.repmgr_files import files_here
from repmgr_hooks.errors import OperationFailed, Problem, UsageError, listed, mistake
from repmgr_hooks.files import atomic_write, text_of, untrusted
from repmgr_hooks.forward import settings
from repmgr_hooks.hook import forwards
from repmgr_hooks.setup import access, database_host, gateways
from repmgr_hooks.setup.discover import USER
from repmgr_hooks.setup.new_confs import REPMGRD, UNKNOWN, is_conf, unfilled
from repmgr_hooks.setup.render import CONFIGURATION, SHIPPED, SUDOERS, TMPFILES, packaged
from repmgr_hooks.system.steps import Host, Program

LIMIT = 30.0
MODES = {SUDOERS: 0o440, TRACK: 0o755}
SECRET = 0o600
"""Of a draft of somebody else's file: a repmgr.conf may hold a password."""
SYSTEM = "/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True)
class Move:
    """One file: from the draft to its place, and what stands there now."""

    draft: Path
    place: Path

    @property
    def text(self) -> str:
        """What the draft holds."""
        return text_of(self.draft)

    @property
    def there(self) -> str | None:
        """What its place holds now; None if there is no file."""
        return text_of(self.place) if self.place.exists() else None

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
                if text_of(path) == text
                else f"CHANGED   {path}: kept; remove it to have it written again"
            )
            continue
        with atomic_write(path) as file:
            ours = Move(path, Path(place)).ours
            os.fchmod(file.fileno(), MODES.get(place, 0o644) if ours else SECRET)
            file.write(text)
        yield f"written   {path}"


def moves_of(directory: Path) -> list[Move]:
    """Return what a draft holds; what a link of repmgr.conf leads to may be anywhere."""
    confs = (drafted(directory, str(conf)) for conf in files_here())
    drafts = sorted({path for path in (*(directory / "etc").rglob("*"), *confs) if path.is_file()})
    return [Move(path, Path("/", path.relative_to(directory))) for path in drafts]


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
    sudoers = drafted(directory, SUDOERS)
    try:
        _ = sudoers.exists() and host.run(Program(("visudo", "-c", "-f", str(sudoers))), LIMIT)
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
        there = Path(place).is_symlink() or _of_package(place, on_gateway)
        if Path(place) not in [move.place for move in moves] and not there:
            yield mistake(f"{place} is not in it")
    for move in moves:
        if not move.ours and move.there is None and not is_conf(move.place):
            yield mistake(f"{move.draft} has no place here")
        elif not move.ours and not is_conf(move.place) and (wrong := untrusted(move.place.parent)):
            # Where a link leads, that its owner has made: root would write there, or wherever that leads by then.
            yield mistake(f"{move.place} is refused: {wrong}", wrong.hint)
        if is_conf(move.place) and (left := unfilled(move.text)):
            yield mistake(f"{move.draft} has {UNKNOWN} in {' and '.join(left)}", "write where it is on the node")
        if str(move.place) == KEYS and access.NO_KEY in move.text:
            hint = "on each of them 'init --install' shows the command to type here"
            yield mistake(f"{move.draft} lacks the keys of the database hosts", hint)
        if str(move.place) == KEYS and not shutil.which("sshd", path=SYSTEM):
            yield mistake("sshd is not here, through which database hosts hand events over", "install openssh-server")
        if move.place.is_symlink() and not move.done:
            yield _link(move)
        elif move.replaces and not replace:
            yield mistake(f"{move.place} would be replaced", f"see diff {move.place} {move.draft}; then use --replace")
    if not on_gateway and not shutil.which("ssh-keygen"):
        yield mistake("ssh is not here, with which events are handed over", "install openssh-client")
    try:
        _ = on_gateway and pwd.getpwnam(USER)
    except KeyError:
        yield mistake(f"there is no user {USER}, who runs the service", "install Barman")


def _link(move: Move) -> Problem:
    """A file in its place would leave as it is what the link leads to, and what repmgrd may have been told to read."""
    leads, hint = os.path.realpath(move.place), f"rm {move.place}"
    if is_conf(move.place):
        there = Path(f"{str(move.draft).removesuffix(str(move.place))}{leads}")
        hint = f"mkdir -p {there.parent} && mv {move.draft} {there}"
    elif str(move.place) != CONFIGURATION:
        hint += f"; or, to keep it: rm {move.draft}"
    return mistake(f"{move.place} is a link to {leads}", hint)


def drafted(directory: Path, place: str) -> Path:
    """Return where a draft has the file for this place, if it has one."""
    return directory / place.lstrip("/")
