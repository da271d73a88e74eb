"""A host of the lab booted, with real systemd as its first process: for what only units can show.

The machine's own root directory is the host's, with what it writes kept in memory; but only basic.target is reached, so
no service of the machine starts.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from tests.lab import BASE, Failed, Host, Lab, must, wait_for

BOX = ("systemd-nspawn", "--quiet", "--register=no", "--keep-unit", "--capability=CAP_NET_ADMIN")
SHARED = ("/etc", "/var", "/usr/local/bin", "/opt")
CGROUPS = Path("/sys/fs/cgroup")


class CannotBoot(Failed):
    """This machine lets no systemd be started in a container."""


@dataclass(frozen=True)
class Machine:
    """A booted host: commands are run as root."""

    init: int

    def result(self, *words: str, limit: float = 60) -> subprocess.CompletedProcess[str]:
        enter = ("nsenter", "--target", str(self.init), "--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup")
        return subprocess.run(
            [*enter, *words], capture_output=True, text=True, timeout=limit, check=False, stdin=subprocess.DEVNULL
        )

    def run(self, *words: str, limit: float = 60) -> str:
        result = self.result(*words, limit=limit)
        if result.returncode != 0:
            raise Failed(f"{' '.join(words)}: {result.returncode}\n{result.stdout}\n{result.stderr}")
        return result.stdout

    def log(self, unit: str) -> str:
        """What the journal has of a unit."""
        return self.run("journalctl", "--no-pager", "-o", "cat", "-u", unit)


@contextmanager
def booted(lab: Lab, host: Host) -> Iterator[Machine]:
    """Boot a host that the lab has built; both ways into it lead to the same files. Raises CannotBoot."""
    shared = {inside: host.path(inside) for inside in SHARED}
    shared |= {"/opt/repmgr-hooks": lab.venv, "/opt/repmgr-hooks/bin/repmgr-hooks": BASE / "program"}
    binds = [f"--bind={place}:{inside}" for inside, place in shared.items()]
    log = BASE / f"{host.name}-boot.log"
    with _overlay(BASE / "booted") as root, log.open("wb") as output:
        where = (f"--network-namespace-path=/run/netns/{host.name}", f"--directory={root}")
        words = [*BOX, *where, *binds, "--boot", "--", "--unit=basic.target"]
        # Else /proc/sys is read-only, and the kernel cannot be told to forward.
        environment = {**os.environ, "SYSTEMD_NSPAWN_API_VFS_WRITABLE": "network"}
        nspawn = subprocess.Popen(
            words, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, env=environment
        )
        try:
            yield _when_it_is_up(nspawn, log)
        finally:
            _end(nspawn)


@contextmanager
def _overlay(place: Path) -> Iterator[Path]:
    """The machine's root directory; what is written there stays in memory."""
    root, upper, work = (place / name for name in ("root", "upper", "work"))
    for directory in (root, upper, work):
        directory.mkdir(parents=True)
    must("mount", "-t", "overlay", "-o", f"lowerdir=/,upperdir={upper},workdir={work}", "overlay", str(root))
    try:
        yield root
    finally:
        must("umount", str(root))


def _when_it_is_up(nspawn: subprocess.Popen[bytes], log: Path) -> Machine:
    def up() -> bool:
        if nspawn.poll() is not None:
            raise Failed("systemd-nspawn has ended")
        return any(
            Machine(first).result("systemctl", "is-active", "basic.target").returncode == 0
            for first in _first_process(nspawn)
        )

    try:
        wait_for(up, "systemd")
    except Failed as error:
        raise CannotBoot(f"{error}\n{log.read_text(errors='replace')}") from None
    return Machine(*_first_process(nspawn))


def _first_process(nspawn: subprocess.Popen[bytes]) -> list[int]:
    """The machine's process 1, as it is called here; none before it begins and after it has ended."""
    with suppress(FileNotFoundError):
        return [int(child) for child in Path(f"/proc/{nspawn.pid}/task/{nspawn.pid}/children").read_text().split()]
    return []


def _end(nspawn: subprocess.Popen[bytes]) -> None:
    """The kernel ends every process of a machine with its first one; only empty cgroups stay behind."""
    for first in _first_process(nspawn):
        os.kill(first, signal.SIGKILL)
    nspawn.wait(60)
    for name in ("payload", "supervisor"):
        for group in CGROUPS.glob(f"**/{name}"):
            for directory, _, _ in os.walk(group, topdown=False):
                with suppress(OSError):
                    Path(directory).rmdir()
