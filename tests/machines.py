"""A root directory for each Debian, and ``tests/run`` in it as on a machine of its own. ``tests/matrix`` starts this.

The roots stay in ``$XDG_CACHE_HOME/repmgr-hooks-tests`` (or /var/cache), with what the tests have installed in them.
They get packages and libraries the way this machine does: its mirror, its proxy, its certificates, its pip.conf.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.lab import REPOSITORY
from tests.lab.contain import DIES_WITH_US

NAMES = ("bookworm", "trixie", "sid")
UNSTABLE = "sid"
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or "/var/cache", "repmgr-hooks-tests")
INCLUDED = "ca-certificates,systemd-sysv"
HERE = "srv/repmgr_hooks"
"""Where the repository is copied to: not below what the hosts of the lab have each for themselves (``lab.PRIVATE``)."""
NOT_COPIED = shutil.ignore_patterns(".git", ".venv*", "__pycache__", ".*_cache")
TO_BUILD, TO_RUN = 3600, 5400
"""Seconds."""
ALONE = (*DIES_WITH_US, "unshare", "--mount", "--pid", "--fork", "--kill-child=SIGKILL", "--propagation", "private")
"""The beginning of a command whose mounts and processes end with it, and it with this process."""

OURS = ("/etc/resolv.conf", "/etc/hosts", "/etc/pip.conf", "/root/.config/pip/pip.conf", "/root/.pip/pip.conf")
ENVIRONMENT = re.compile(r"PIP_.*|.*_proxy|.*_PROXY|SSL_CERT_FILE|SSL_CERT_DIR|REQUESTS_CA_BUNDLE|LANG|TERM")
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
ACQUIRE = re.compile(r"Acquire::(https?::|Retries|Check-|ForceIPv|Max-FutureTime)")

# Not a mere chroot: the box of the lab wants / to be a mount point. systemd as a lab's first process refuses the first
# version of cgroups from 256 on. The shell stays, and waits for whatever has lost its parent, as a first process does.
ENTER = """
root=$1; shift
mount --bind "$root" "$root"
cd "$root"
mount --rbind /sys sys
mount --rbind /dev dev
mount -t proc proc proc
for place in run tmp; do mount -t tmpfs -o mode=1777 tmpfs $place; done
umount -R sys/fs/cgroup
mount -t cgroup2 cgroup2 sys/fs/cgroup
pivot_root . .
umount -l .
cd "$1"; shift
"$@" || exit $?
"""
VERSIONS = ("postgresql-[0-9]*", "repmgr-common", "barman", "python3", "iptables", "systemd")


@dataclass(frozen=True)
class Outcome:
    """How a run on a machine ended; ``last``: the last line of what it said."""

    name: str
    code: int
    last: str
    seconds: float
    versions: str


def main() -> int:
    parser = argparse.ArgumentParser(prog="tests/matrix")
    parser.add_argument("--fresh", action="store_true", help="make the machines anew")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)}; without: all")
    argv = sys.argv[1:]
    cut = argv.index("--") if "--" in argv else len(argv)
    arguments, command = parser.parse_args(argv[:cut]), argv[cut + 1 :] or ["tests/run"]
    if unknown := set(arguments.names) - set(NAMES):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join(NAMES)}")
    outcomes = [run(name, command, arguments.fresh) for name in arguments.names or NAMES]
    print()
    for outcome in outcomes:
        word = "ok" if outcome.code == 0 else "FAILED"
        print(f"{outcome.name:9} {word:7} {outcome.seconds:6.0f} s  {outcome.last}\n          {outcome.versions}")
    return int(any(outcome.code for outcome in outcomes))


def run(name: str, command: Sequence[str], fresh: bool) -> Outcome:
    """Run a command in the repository on a machine, and show what it says."""
    begun, last = time.monotonic(), ""
    with locked(name):
        root = built(name, fresh)
        furnish(root)
        print(f"==== {name}: {' '.join(command)} ====", flush=True)
        process = subprocess.Popen(
            inside(root, *command),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env=environment(),
        )
        assert process.stdout is not None
        limit = threading.Timer(TO_RUN, process.kill)
        limit.start()
        for line in process.stdout:
            print(line, end="", flush=True)
            last = line.strip() or last
        limit.cancel()
        return Outcome(name, process.wait(), last, time.monotonic() - begun, versions(root))


@contextmanager
def locked(name: str) -> Iterator[None]:
    """Two runs at once need two machines."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / f"{name}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"waiting for another run on {name}", flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


# -- making them ------------------------------------------------------------------------------------------------------


def built(name: str, fresh: bool) -> Path:
    """Return the root directory of a machine, which is made if there is none."""
    root, new = CACHE / name, CACHE / f"{name}.new"
    if fresh and root.exists():
        shutil.rmtree(root)
    if not root.exists():
        print(f"==== {name}: making it ====", flush=True)
        if new.exists():
            shutil.rmtree(new)
        with tempfile.NamedTemporaryFile("w", suffix=".conf") as settings:
            settings.write(acquire())
            settings.flush()
            options = ("--variant=minbase", f"--include={INCLUDED}", f"--aptopt={settings.name}")
            words = ("mmdebstrap", "--quiet", *options, name, str(new), *sources(name))
            subprocess.run((*ALONE, "--mount-proc", *words), stdin=subprocess.DEVNULL, timeout=TO_BUILD, check=True)
        # Else systemd as a first process finds none, and the journal stays empty.
        (new / "etc/machine-id").write_text(f"{secrets.token_hex(16)}\n")
        certificates(new)
        new.rename(root)
    return root


def sources(name: str) -> list[str]:
    """Return where this machine gets Debian's packages from, for another Debian; else mmdebstrap has a default."""
    form = "|".join(f"$({word})" for word in ("ORIGIN", "COMPONENT", "SITE", "RELEASE"))
    return translated(said("apt-get", "indextargets", "--format", form, "Created-By: Packages"), release(), name)


def translated(targets: str, own: str, name: str) -> list[str]:
    """Return the lines of a sources.list. There are no updates to sid.

    >>> targets = "Debian|main|http://a.example|stable\\nDebian|main|http://b.example|stable-security\\nOther|main|c|stable"
    >>> translated(targets, "stable", "next")
    ['deb http://a.example next main', 'deb http://b.example next-security main']
    >>> translated(targets, "stable", "sid")
    ['deb http://a.example sid main']
    """
    found = []
    for line in targets.splitlines():
        origin, component, site, suite = line.split("|")
        other = re.sub(rf"^{own}\b", name, suite)
        if (origin, component) == ("Debian", "main") and other.startswith(name) and (name != UNSTABLE or other == name):
            found.append(f"deb {site} {other} main")
    return found


def release() -> str:
    """Return the name of this machine's own Debian."""
    found = re.search(r"^VERSION_CODENAME=(\w+)", Path("/etc/os-release").read_text(), re.MULTILINE)
    return found[1] if found else UNSTABLE


def acquire() -> str:
    """Return how this machine's apt gets at packages: proxies, certificates, retries."""
    lines = said("apt-config", "dump").splitlines()
    return "".join(f"{line}\n" for line in lines if ACQUIRE.match(line))


def certificates(root: Path) -> None:
    """Trust whom this machine trusts."""
    place = Path("usr/local/share/ca-certificates")
    shutil.copytree("/" / place, root / place, dirs_exist_ok=True)
    said(*DIES_WITH_US, "chroot", str(root), "update-ca-certificates")


def said(*words: str) -> str:
    result = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120, check=True)
    return result.stdout


# -- using them -------------------------------------------------------------------------------------------------------


def furnish(root: Path) -> None:
    """Put the repository as it is now into a machine, and what this one reaches the network by."""
    for place in map(Path, OURS):
        if place.exists():
            there = root / place.relative_to("/")
            there.parent.mkdir(parents=True, exist_ok=True)
            there.unlink(missing_ok=True)
            there.write_text(place.read_text())
    repository = root / HERE
    repository.mkdir(parents=True, exist_ok=True)
    for old in repository.iterdir():
        if not old.name.startswith(".venv"):
            shutil.rmtree(old) if old.is_dir() else old.unlink()
    shutil.copytree(REPOSITORY, repository, ignore=NOT_COPIED, symlinks=True, dirs_exist_ok=True)


def inside(root: Path, *command: str) -> list[str]:
    """Return the command that runs a command in the repository on a machine."""
    return [*ALONE, "sh", "-ec", ENTER, "sh", str(root), f"/{HERE}", *command]


def environment() -> dict[str, str]:
    taken = {name: value for name, value in os.environ.items() if ENVIRONMENT.fullmatch(name)}
    return {**taken, "PATH": PATH, "HOME": "/root"}


def versions(root: Path) -> str:
    """Return what the README's table of tested versions is made of."""
    words = ("dpkg-query", "--show", "--showformat", "${db:Status-Status} ${Package} ${Version}\\n", *VERSIONS)
    result = subprocess.run(
        ("chroot", str(root), *words), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False
    )
    return ", ".join(re.findall(r"^installed (.*)$", result.stdout, re.MULTILINE))


if __name__ == "__main__":
    # As an exception, SIGINT would wait for what runs.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    sys.exit(main())
