"""A lab where repmgrd runs on the database hosts, and hands its events to the gateway through ssh.

All of it is typed as ``systemd/README.md`` says, with the shipped files; sshd reads the shipped ``Match`` block.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from tests.lab import CONFIG, CONFIG_FILE, wait_for
from tests.lab.three import CHEAP_KEYS

if TYPE_CHECKING:
    from tests.lab import Host, Lab

KEY = "/var/lib/postgresql/.ssh/repmgr_hooks"
STATE = "/var/lib/repmgr-hooks"
SSHD = f"""
{CHEAP_KEYS}HostKey /etc/ssh/lab_key
UsePAM no
PasswordAuthentication no
Include /etc/ssh/sshd_config.d/repmgr-hooks.conf
"""


def install(lab: Lab) -> None:
    """Make the account, the keys and the files; no daemon is started but sshd."""
    gateway = lab.gateway
    gateway.run(
        *("useradd", "--system", "--gid", "postgres", "--home-dir", "/nonexistent", "--shell", "/bin/sh"),
        "repmgr-hooks",
    )
    # Without PAM sshd lets nobody in to a locked account.
    gateway.run("usermod", "--password", "*", "repmgr-hooks")
    Path("/run/sshd").mkdir(exist_ok=True)
    gateway.run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", "/etc/ssh/lab_key")
    known = " ".join(gateway.path("/etc/ssh/lab_key.pub").read_text().split()[:2])
    keys = (CONFIG / "authorized_keys").read_text()
    for host in lab.databases:
        node_files(lab, host, f"{gateway.address} {known}\n")
        public = host.path(f"{KEY}.pub").read_text().strip()
        keys = keys.replace(f"KEY-OF-{host.name}", public)
    lab.put(gateway, "/etc/repmgr-hooks/authorized_keys", keys)
    lab.put(gateway, "/etc/ssh/sshd_config.d/repmgr-hooks.conf", (CONFIG / "sshd.conf").read_text())
    lab.put(gateway, "/etc/ssh/sshd_config", SSHD)
    start_sshd(lab)


def node_files(lab: Lab, host: Host, known_hosts: str) -> None:
    """Put our files on a database host."""
    host.path("/usr/local/bin/repmgr-hooks").symlink_to("/opt/repmgr-hooks/bin/repmgr-hooks")
    host.path("/var/lib/postgresql/.ssh").mkdir(mode=0o700, exist_ok=True)
    host.run("chown", "postgres:", "/var/lib/postgresql/.ssh")
    host.run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", KEY, user="postgres")
    lab.put(host, "/var/lib/postgresql/.ssh/known_hosts", known_hosts, 0o600, "postgres")
    lab.put(host, CONFIG_FILE, (CONFIG / "database-host.yaml").read_text())
    lab.put(host, "/etc/tmpfiles.d/repmgr-hooks.conf", (CONFIG / "database-host-tmpfiles.conf").read_text())
    host.run("systemd-tmpfiles", "--create", "/etc/tmpfiles.d/repmgr-hooks.conf")


def start_sshd(lab: Lab) -> None:
    """Start the gateway's sshd."""
    lab.gateway.run("/usr/sbin/sshd", "-t")
    said = lab.gateway.log_from_now("sshd")
    lab.daemons["sshd"] = lab.gateway.start("/usr/sbin/sshd", "-D", "-e", log="sshd")
    wait_for(lambda: "listening on" in said(), "sshd to listen")


def start_forwarder(lab: Lab, host: Host) -> subprocess.Popen[bytes]:
    """Start repmgr-hooks-forward.service as its unit says."""
    made = host.start("/usr/local/bin/repmgr-hooks", "forward", user="postgres", log="forward")
    lab.daemons[f"forward {host.name}"] = made
    wait_for(lambda: host.path(f"{STATE}/spool/wake").exists(), f"the forwarder of {host.name}")
    return made


def start_repmgrd(lab: Lab) -> None:
    """Start repmgrd on each database host."""
    ready = re.compile("monitoring (connection to upstream|cluster primary)")
    said = {host.name: host.log_from_now("repmgrd") for host in lab.databases}
    for host in lab.databases:
        words = ("repmgrd", "-f", f"/etc/repmgr/{host.name}.conf", "--daemonize=false", "--no-pid-file")
        lab.daemons[f"repmgrd {host.name}"] = host.start(*words, user="postgres", log="repmgrd")
    for host in lab.databases:
        wait_for(lambda h=host: ready.search(said[h.name]()), f"repmgrd of {host.name}")  # type: ignore[misc]


def event(host: Host, node: int, name: str, *more: str) -> None:
    """Report an event on a host, as its repmgr would."""
    host.run("/usr/local/bin/repmgr-hooks", "event", "--cluster", "main", str(node), name, *more, user="postgres")


def waiting(host: Host, gateway: str = "gateway") -> int:
    """Return how many events wait for a gateway."""
    place = host.path(f"{STATE}/forward/{gateway}")
    return sum(file.name[0] != "." for file in place.iterdir()) if place.exists() else 0
