"""A host of the lab booted, with real systemd as its first process: for what only units can show.

The machine's own root directory is the host's, with what it writes kept in memory. No service that somebody enabled on
the machine starts. A killed run leaves empty cgroups, whose names are not used again.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from tests.lab import BASE, Failed, Host, Lab, must, said, wait_for

NSPAWN = ("systemd-nspawn", "--quiet", "--register=no", "--keep-unit", "--capability=CAP_NET_ADMIN")
SHARED = ("/etc", "/var", "/usr/local/bin", "/opt")
# Which of these there are depends on how the machine has mounted them; nspawn works in that of its own process.
CGROUPS = [Path("/sys/fs/cgroup", name) for name in ("systemd", "unified", "")]
JOIN = 'until [ "$1" = -- ]; do echo $$ > "$1/cgroup.procs"; shift; done; shift; exec "$@"'
# Without this /proc/sys is read-only, and the kernel cannot be told to forward.
OURS = {**os.environ, "SYSTEMD_NSPAWN_API_VFS_WRITABLE": "network"}
ROOTS = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root"}
_have_booted: set[str] = set()
"""Hosts of this run: where one has booted, another one can, and a test that says it cannot would hide a fault."""


class CannotBoot(Failed):
    """This machine lets no systemd be started in a container."""


@dataclass(frozen=True)
class Machine:
    """A booted host: commands are run as root."""

    init: int

    def result(self, *words: str, limit: float = 300) -> subprocess.CompletedProcess[str]:
        enter = ("nsenter", "--target", str(self.init), "--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup")
        return subprocess.run(
            [*enter, *words],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=limit,
            check=False,
            env=ROOTS,
        )

    def run(self, *words: str, limit: float = 300) -> str:
        return said(self.result(*words, limit=limit), " ".join(words))

    def log(self, unit: str) -> str:
        """What the journal has of a unit."""
        return self.run("journalctl", "--no-pager", "-o", "cat", "-u", unit)


@contextmanager
def booted(lab: Lab, host: Host) -> Iterator[Machine]:
    """Boot a host that the lab has built. ``SHARED`` are the host's own files; it may be booted again.

    Raises CannotBoot; Failed if it takes too long, and if another one has booted.
    """
    try:
        with _started(lab, host) as machine:
            _have_booted.add(host.name)
            yield machine
    except CannotBoot as error:
        if _have_booted:
            raise Failed(f"{host.name} does not boot: {error}") from error
        raise


@contextmanager
def _started(lab: Lab, host: Host) -> Iterator[Machine]:
    for enabled in host.path("/etc/systemd/system").glob("*.wants/*"):
        if not enabled.name.startswith("repmgr"):
            enabled.unlink()
    shared = {inside: host.path(inside) for inside in SHARED}
    shared |= {"/opt/repmgr-hooks": lab.venv, "/opt/repmgr-hooks/bin/repmgr-hooks": BASE / "program"}
    binds = [f"--bind={place}:{inside}" for inside, place in shared.items()]
    log = BASE / f"{host.name}-boot.log"
    with over_root(BASE / f"{host.name}-booted") as root, _cgroups() as groups, log.open("wb") as output:
        where = (f"--network-namespace-path=/run/netns/{host.name}", f"--directory={root}")
        # Else its name is that of its directory, `root`. From systemd 256 on there can be one machine of a name: nspawn
        # makes a mount point for it, "/run/systemd/nspawn/unix-export/root exists already, refusing" (nspawn.c).
        name = f"--machine={host.name}"
        boot = [*NSPAWN, name, *where, *binds, "--boot", "--", "--unit=multi-user.target"]
        nspawn = subprocess.Popen(
            ["sh", "-ec", JOIN, "sh", *groups, "--", *boot],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=OURS,
        )
        try:
            yield _when_it_is_up(nspawn, log)
        finally:
            _end(nspawn)


@contextmanager
def over_root(place: Path) -> Iterator[Path]:
    """The machine's root directory; what is written there stays in memory."""
    root, upper, work = (place / name for name in ("root", "upper", "work"))
    for directory in (root, upper, work):
        directory.mkdir(parents=True)
    layers = f"lowerdir=/,upperdir={upper},workdir={work}"
    try:
        must("mount", "-t", "overlay", "-o", layers, "overlay", str(root))
    except Failed as error:
        raise CannotBoot(str(error)) from None
    try:
        yield root
    finally:
        must("umount", "--lazy", str(root))
        shutil.rmtree(place)


@contextmanager
def _cgroups() -> Iterator[list[str]]:
    """A cgroup of its own in every hierarchy that systemd uses: two machines in one would end each other's services."""
    name = f"repmgr-hooks-lab-{secrets.token_hex(4)}"
    groups = [place / name for place in CGROUPS if (place / "cgroup.procs").exists()]
    try:
        try:
            for group in groups:
                group.mkdir()
        except OSError as error:
            raise CannotBoot(str(error)) from None
        yield [str(group) for group in groups]
    finally:
        for group in groups:
            for directory, _, _ in os.walk(group, topdown=False):
                with suppress(OSError):
                    Path(directory).rmdir()


def _when_it_is_up(nspawn: subprocess.Popen[bytes], log: Path) -> Machine:
    found: list[Machine] = []

    def up() -> bool:
        if nspawn.poll() is not None:
            raise CannotBoot(log.read_text(errors="replace"))
        found[:] = filter(is_up, map(Machine, _first_process(nspawn)))
        return bool(found)

    wait_for(up, "systemd")
    return found[0]


def is_up(machine: Machine) -> bool:
    """Believe what it prints: where /proc is not mounted yet, systemctl of 257 sees a chroot and succeeds unasked
    ("Running in chroot, ignoring command 'is-active'"); that of 252 fails."""
    return machine.result("systemctl", "is-active", "multi-user.target").stdout == "active\n"


def _first_process(nspawn: subprocess.Popen[bytes]) -> list[int]:
    """The machine's process 1, as it is called here; none before it begins and after it has ended."""
    with suppress(FileNotFoundError):
        return [int(child) for child in Path(f"/proc/{nspawn.pid}/task/{nspawn.pid}/children").read_text().split()]
    return []


def _end(nspawn: subprocess.Popen[bytes]) -> None:
    """The kernel ends every process of a machine with its first one."""
    for first in _first_process(nspawn):
        with suppress(ProcessLookupError):
            os.kill(first, signal.SIGKILL)
    try:
        nspawn.wait(120)
    finally:
        nspawn.kill()
        nspawn.wait(120)
