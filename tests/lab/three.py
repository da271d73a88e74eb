"""What a lab of three nodes has more: the files of db3, made from those of db2, and ssh between the hosts.

ssh is what ``repmgr standby switchover`` stops, rejoins and turns round the other nodes with, what repmgrd on the
gateway makes a third node follow with, and how a standby gets at what Barman has.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.lab import Host, Lab

# The exchange of keys that OpenSSH 9 prefers takes five times as much of a processor as all the rest of a connection.
# A server that does not have it makes both sides take the next one (RFC 4253, 7.1).
CHEAP_KEYS = "KexAlgorithms -sntrup761*\n"
SSHD = f"""
{CHEAP_KEYS}HostKey /etc/ssh/lab_key
PasswordAuthentication no
UsePAM no
SetEnv PATH=/usr/local/bin:/usr/bin:/bin
"""


def adapted(name: str, text: str) -> str:
    """Return a file of ``config/`` for three nodes; the text that is given for db3 is db2's."""
    if name == "config.yaml":
        return re.sub(r"( +)2: {host: 10\.0\.0\.12}\n", r"\g<0>\g<1>3: {host: 10.0.0.13}\n", text)
    if name.startswith("postgresql-"):
        others = ", ".join(node for node in ("db1", "db2", "db3") if node not in name)
        return re.sub(r"\(db\d, ", f"({others}, ", text)
    if name == "repmgr-db3.conf":
        text = text.replace("db2", "db3").replace("node_id=2", "node_id=3").replace("10.0.0.12", "10.0.0.13")
        # It may have received a little more than db2; the tests want to know who promotes itself.
        return f"{text}priority=0\n"
    return text


def start_ssh(lab: Lab) -> None:
    """Start sshd on every node and on the gateway: postgres and barman of each get in on all of them."""
    Path("/run/sshd").mkdir(exist_ok=True)
    key, public = new_key(lab)
    for host in (*lab.databases, lab.gateway):
        for user in HOMES:
            let_in(lab, host, user, key, public)
        start_sshd(lab, host, key)
    for host in lab.databases:
        follow_by_ssh(lab, host)


DIGITS = "0123456789"
HOMES = {"postgres": "/var/lib/postgresql/.ssh", "barman": "/var/lib/barman/.ssh"}


def let_in(lab: Lab, host: Host, user: str, key: str, public: str) -> None:
    """Give a user of a host the key, and let in there who has it."""
    home = HOMES[user]
    lab.put(host, f"{home}/id_ed25519", key, 0o600, user)
    lab.put(host, f"{home}/known_hosts", f"{host.address.rstrip(DIGITS)}* {public}", 0o600, user)
    lab.put(host, f"{home}/authorized_keys", public, 0o600, user)
    shutil.chown(host.path(home), user, user)
    # Debian locks the account, and without PAM sshd lets nobody in to a locked one.
    host.run("usermod", "--password", "*", user)


def start_sshd(lab: Lab, host: Host, key: str) -> None:
    """Start a host's sshd; its own key is that of the users, too."""
    from tests.lab import wait_for  # which imports this module

    lab.put(host, "/etc/ssh/lab_key", key, 0o600)
    lab.put(host, "/etc/ssh/sshd_config", SSHD)
    said = host.log_from_now("sshd")
    lab.daemons[f"sshd of {host.name}"] = host.start("/usr/sbin/sshd", "-D", "-e", log="sshd")
    wait_for(lambda: "listening on" in said(), f"sshd of {host.name} to listen")


def follow_by_ssh(lab: Lab, host: Host) -> None:
    """Let the gateway's repmgrd of a node make it follow; ``standby follow`` needs the node's data directory."""
    place = f"/etc/repmgr/{host.name}.conf"
    here, there = "/usr/bin/repmgr standby follow", f"ssh -o BatchMode=yes {host.address} repmgr standby follow"
    lab.put(lab.gateway, place, lab.gateway.path(place).read_text().replace(here, there))


def new_key(lab: Lab) -> tuple[str, str]:
    """Return a new key pair, private and public: both the nodes' own and that of postgres."""
    place = lab.db1.path("/root/lab_key")
    place.parent.mkdir(exist_ok=True)
    words = ("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(place))
    subprocess.run(words, check=True, timeout=60, stdin=subprocess.DEVNULL)
    return place.read_text(), place.with_suffix(".pub").read_text()


def is_registered(primary: Host) -> None:
    """Wait until repmgr has written that a node is the primary: a promoted one serves clients a moment before."""
    from tests.lab import wait_for  # which imports this module

    registered = "select node_name from repmgr.nodes where type = 'primary' and active"
    wait_for(lambda: primary.sql(registered, "repmgr") == primary.name, "repmgr to have registered the promotion")


def rejoin(host: Host, primary: Host, limit: float = 120) -> None:
    """Make a former primary that is stopped a standby, as the DBA would; what only it had is lost.

    ``node rejoin`` wants the promotion to be registered. Until the promoted node's first checkpoint pg_rewind of
    PostgreSQL 15 finds the timeline of before, and rewinds nothing.
    """
    is_registered(primary)
    primary.sql("checkpoint")
    words = ("repmgr", "-f", f"/etc/repmgr/{host.name}.conf", "node", "rejoin", "--force-rewind")
    node = f"host={primary.address} port={primary.port} user=repmgr dbname=repmgr"
    # These files stand in the data directory, where pg_rewind puts those of the primary instead.
    files = "--config-files=postgresql.conf,conf.d.conf,pg_hba.conf"
    host.run(*words, "-d", node, files, user="postgres", limit=limit)
