"""Owners and modes along every path: of the program, the configuration, the state, the spool and the passwords."""

from __future__ import annotations

import os
import shutil
import stat
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import repmgr_hooks
from repmgr_hooks.checks.finding import Finding, Topic
from repmgr_hooks.checks.users import ENTER, READ, WRITE, User, hindrance
from repmgr_hooks.config import Config
from repmgr_hooks.engine.routes import ManagedCluster
from repmgr_hooks.files import untrusted
from repmgr_hooks.handlers import command
from repmgr_hooks.hook import PROGRAM

LEAST_FREE = 100 * 1024 * 1024
SECRET = 0o077
AS_ROOT = "run this check as root"


def look(loaded: Config, service: User, repmgrd: User) -> Iterator[Finding]:
    """Look at what all clusters share."""
    yield _program(Path(PROGRAM), repmgrd)
    yield _seen("files.config", loaded.path, lambda topic: _readable(topic, loaded.path, repmgrd))
    yield _seen("files.state", loaded.state_dir, lambda topic: _state(topic, loaded.state_dir, service, repmgrd))
    if absent(loaded.state_dir):
        return
    yield _seen("files.journal", loaded.state_dir, lambda topic: _journal(topic, loaded.state_dir, service))
    spool = loaded.state_dir / "spool"
    yield _seen("files.spool", spool, lambda topic: _spool(topic, spool, repmgrd))


def _seen(key: str, path: Path, judged: Callable[[Topic], Finding]) -> Finding:
    """Judge a file; what cannot be looked at is said."""
    topic = Topic(key, str(path))
    try:
        return judged(topic)
    except PermissionError as error:
        return unseen(topic, error)
    except OSError as error:
        return topic.fail(f"cannot be used: {error.strerror}", "systemd-tmpfiles --create; see config/tmpfiles.conf")


def absent(place: Path) -> bool:
    """True if there is certainly no such file; what may not be looked at may be there."""
    try:
        place.stat()
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False
    return False


def unseen(topic: Topic, error: object) -> Finding:
    """Say that something cannot be looked at by the user that we are."""
    why = error.strerror if isinstance(error, OSError) else str(error).rpartition(": ")[2]
    return topic.warn(f"cannot be looked at: {why}", AS_ROOT)


def _program(program: Path, repmgrd: User) -> Finding:
    def judged(topic: Topic) -> Finding:
        for place in (program, Path(sys.executable), Path(repmgr_hooks.__file__)):
            if wrong := untrusted(place):
                return topic.fail(f"is run as root, and {wrong}", wrong.hint)
        if why := hindrance(repmgrd, program, READ | ENTER):
            return topic.fail(why, f"chmod -R go=u-w {program.resolve()}")
        return topic.ok(f"{repmgrd.name} can run it, and only root can change it")

    if absent(program):
        return Topic("files.program", str(program)).fail("does not exist", f"ln -s {_own_place()} {program}")
    return _seen("files.program", program, judged)


def _own_place() -> str:
    return shutil.which("repmgr-hooks") or "/opt/repmgr-hooks/bin/repmgr-hooks"


def _readable(topic: Topic, path: Path, repmgrd: User) -> Finding:
    if why := hindrance(repmgrd, path, READ):
        return topic.fail(
            f"{why}: the hook then does not find state_dir", f"chmod 0644 {path}; chmod go+x {path.parent}"
        )
    return topic.ok(f"{repmgrd.name} can read it, and only root can change it")


def _state(topic: Topic, path: Path, service: User, repmgrd: User) -> Finding:
    hint = f"chown {service.name}:{repmgrd.name} {path}; chmod 0710 {path}"
    if path.is_symlink():
        return topic.fail(
            "is a link: neither root nor the hook follows one", f"config.yaml: state_dir: {path.resolve()}"
        )
    if path.stat().st_mode & 0o022:
        return topic.fail("can be written by others than the service", hint)
    if why := hindrance(service, path, WRITE | ENTER) or hindrance(repmgrd, path, ENTER):
        return topic.fail(why, hint)
    return topic.ok(f"belongs to {service.name}, the service's user")


def _journal(topic: Topic, path: Path, service: User) -> Finding:
    for file in (path / f"journal.db{rest}" for rest in ("", "-wal", "-shm")):
        if not absent(file) and (why := hindrance(service, file, READ | WRITE)):
            return topic.fail(why, f"chown {service.name} {path}/journal.db*")
    disk = os.statvfs(path)
    free = disk.f_bavail * disk.f_frsize
    if disk.f_flag & os.ST_RDONLY:
        return topic.fail("is on a file system that is mounted read-only", f"mount -o remount,rw {path}")
    if free < LEAST_FREE:
        return topic.fail(f"only {free // 1024} kB are free on its disk", f"make room; see: du -xsh {path}/*")
    return topic.ok("the journal can be written")


def _spool(topic: Topic, spool: Path, repmgrd: User) -> Finding:
    if spool.is_symlink():
        return topic.fail("is a link: nobody follows one", f"rm {spool}; systemd-tmpfiles --create")
    if spool.stat().st_mode & 0o002:
        return topic.fail("every user can put events into it", f"chmod 2770 {spool}")
    if why := hindrance(repmgrd, spool, WRITE | ENTER):
        what = f"{why}: repmgrd would wait for every run"
        return topic.fail(what, f"chgrp {repmgrd.name} {spool}; chmod 2770 {spool}")
    return topic.ok(f"{repmgrd.name} can put events into it")


def passfile(managed: ManagedCluster, service: User) -> Iterator[Finding]:
    """libpq ignores a password file that others may read, silently for whoever does not look at its stderr."""
    given = managed.cluster.postgres.passfile
    if given:
        yield secret("files.passfile", Path(given), service)


def commands(managed: ManagedCluster, service: User) -> Iterator[Finding]:
    """Look whether the service can run the programs that the routes name."""
    named = {action.config.run[0] for action in managed.actions if isinstance(action.config, command.Config)}
    for name in sorted(named):
        yield _seen("files.command", Path(name), lambda topic: _runs(topic, service))


def _runs(topic: Topic, service: User) -> Finding:
    why = hindrance(service, Path(topic.where), READ | ENTER)
    return topic.fail(why, f"chmod a+rx {topic.where}") if why else topic.ok(f"{service.name} can run it")


def secret(key: str, path: Path, user: User) -> Finding:
    """Look whether libpq will use a password file (fe-connect.c, passwordFromFile)."""
    topic = Topic(key, str(path))
    try:
        status = path.stat()
    except PermissionError as error:
        return unseen(topic, error)
    except OSError:
        return topic.fail("does not exist", f"install -m 0600 -o {user.name} /dev/null {path}; then put the line in")
    if not stat.S_ISREG(status.st_mode) or status.st_mode & SECRET:
        mode = oct(stat.S_IMODE(status.st_mode))[2:]
        return topic.fail(f"has mode {mode}: libpq does not use what others may read", f"chmod 0600 {path}")
    if why := hindrance(user, path, READ):
        return topic.fail(why, f"chown {user.name} {path}")
    return topic.ok(f"{user.name} can read it, and nobody else")
