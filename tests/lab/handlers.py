"""Handlers of other packages in the lab, with what they look after: pgBackRest's repository, pgpool, an address.

The packages are those of ``tests/handlers``, installed by pip. The repository is a directory that every host sees, as
one on NFS. The address stands on both nodes, and a route of the gateway's decides who answers at it.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys

from tests.lab import BASE, REPOSITORY, Failed, Lab, wait_for
from tests.lab.versions import DATA

SITE = "/opt/site"
PROGRAM = f'#!/bin/sh\nPYTHONPATH={SITE} exec /opt/repmgr-hooks/bin/repmgr-hooks "$@"\n'
STANZA, ARCHIVE = "main", BASE / "repository"
ADDRESS = "10.0.1.1"
LOOK = f"#!/bin/sh\nip -4 route show {ADDRESS} | sed -n 's/.* via \\([0-9.]*\\) .*/\\1/p'\n"
MAKE = f'#!/bin/sh\nexec ip route replace {ADDRESS}/32 via "$PRIMARY_HOST"\n'
PGPOOL = "/etc/pgpool-lab"
PCP_USER, PCP_PASSWORD, PCPPASS = "repmgr_hooks", "no-secret", "/etc/repmgr-hooks/pcppass"
PGPOOL_CONF = """
backend_clustering_mode = 'streaming_replication'
listen_addresses = '*'
port = 9999
pcp_listen_addresses = '*'
pcp_port = 9898
unix_socket_directories = '/tmp'
pcp_socket_dir = '/tmp'
pid_file_name = '/tmp/pgpool.pid'
logdir = '/tmp'
{backends}
sr_check_user = 'repmgr'
sr_check_password = '{password}'
sr_check_database = 'repmgr'
failover_on_backend_error = off
load_balance_mode = off
enable_pool_hba = on
pool_passwd = 'pool_passwd'
num_init_children = 8
search_primary_node_timeout = 60
"""
APP = "- firewall: {open: app, fail_open_after: 120}"
BARMANS_GATE, GATE = "- barman: {switch_wal: {timeout: 90}}", f"- pgbackrest: {{stanza: {STANZA}, timeout: 10}}"
"""Instead of Barman's, which would close the WAL file first."""
BEHIND = f"""- firewall: {{open: app}}
          - state: {{look: [/usr/local/bin/look], make: [/usr/local/bin/make]}}
          - pgpool: {{host: 10.0.0.20, user: {PCP_USER}, passfile: {PCPPASS}}}"""


def install(lab: Lab) -> None:
    """Install the packages on the gateway, and name them in its configuration."""
    site = lab.gateway.path(SITE)
    packages = [str(REPOSITORY / "tests/handlers" / name) for name in ("state", "pgbackrest", "pgpool")]
    words = ("-qq", "install", "--no-deps", "--no-build-isolation", "--no-index", "--target", str(site), *packages)
    result = subprocess.run(
        (sys.executable, "-m", "pip", *words), capture_output=True, text=True, timeout=180, check=False
    )
    if result.returncode != 0:
        raise Failed(result.stdout + result.stderr)
    lab.gateway.path("/usr/local/bin/repmgr-hooks").unlink()
    lab.put(lab.gateway, "/usr/local/bin/repmgr-hooks", PROGRAM, 0o755)
    place = lab.gateway.path("/etc/repmgr-hooks/config.yaml")
    text = place.read_text()
    assert text.count(APP) == text.count(BARMANS_GATE) == 1
    place.write_text(text.replace(BARMANS_GATE, GATE).replace(APP, BEHIND))


def start_archive(lab: Lab) -> None:
    """Let every node archive to the repository."""
    ARCHIVE.mkdir()
    shutil.chown(ARCHIVE, "postgres", "postgres")
    conf = (
        f"[global]\nrepo1-path={ARCHIVE}\nlog-level-file=off\nlock-path=/tmp/pgbackrest\n[{STANZA}]\npg1-path={DATA}\n"
    )
    for host in (*lab.databases, lab.gateway):
        lab.put(host, "/etc/pgbackrest.conf", conf)
    settings = f"archive_mode = on\narchive_command = 'pgbackrest --stanza={STANZA} archive-push %p'\n"
    for host in lab.databases:
        lab.append(host, f"{DATA}/postgresql.conf", f"{settings}cluster_name = '{host.name}'\n")
    lab.db1.run("pgbackrest", f"--stanza={STANZA}", "stanza-create", user="postgres")
    for host in lab.databases:
        host.pg_ctl("restart", "-m", "fast")


def archived(timeline: int) -> list[str]:
    """The WAL files of a timeline in the repository, as they lie on its disk."""
    return sorted(path.name for path in ARCHIVE.glob(f"archive/{STANZA}/*/*/{timeline:08X}*-*"))


def share_address(lab: Lab) -> None:
    """Put the address on every node, and the programs that look after it on the gateway."""
    for host in lab.databases:
        host.run("ip", "addr", "add", f"{ADDRESS}/32", "dev", "lo")
    lab.put(lab.gateway, "/usr/local/bin/look", LOOK, 0o755)
    lab.put(lab.gateway, "/usr/local/bin/make", MAKE, 0o755)


def start_pgpool(lab: Lab) -> None:
    """Start pgpool on the gateway, with a backend for each node."""
    gateway = lab.gateway
    backends = "".join(
        f"backend_hostname{n} = '{host.address}'\nbackend_port{n} = 5432\nbackend_flag{n} = 'ALLOW_TO_FAILOVER'\n"
        for n, host in enumerate(lab.databases)
    )
    digest = hashlib.md5(PCP_PASSWORD.encode()).hexdigest()  # what pcp.conf holds
    lab.put(gateway, f"{PGPOOL}/pgpool.conf", PGPOOL_CONF.format(backends=backends, password=lab.passwords["repmgr"]))
    lab.put(gateway, f"{PGPOOL}/pcp.conf", f"{PCP_USER}:{digest}\n", 0o600, "postgres")
    lab.put(gateway, f"{PGPOOL}/pool_hba.conf", "host all all 0.0.0.0/0 scram-sha-256\n")
    lab.put(gateway, f"{PGPOOL}/pool_passwd", f"app:TEXT{lab.passwords['app']}\n", 0o600, "postgres")
    lab.put(gateway, PCPPASS, f"*:*:{PCP_USER}:{PCP_PASSWORD}\n", 0o600, "barman")
    gateway.run("chown", "postgres:postgres", PGPOOL)
    words = ("-n", "-f", f"{PGPOOL}/pgpool.conf", "-F", f"{PGPOOL}/pcp.conf", "-a", f"{PGPOOL}/pool_hba.conf")
    gateway.start("pgpool", *words, user="postgres", log="pgpool")
    wait_for(lambda: "pgpool-II successfully started" in gateway.log("pgpool"), "pgpool to start")


def backends(lab: Lab) -> list[str]:
    """What pgpool says of each backend: the status and the role."""
    words = ("-h", lab.gateway.address, "-p", "9898", "-U", PCP_USER, "-w", "-a")
    said = lab.gateway.run("env", f"PCPPASSFILE={PCPPASS}", "pcp_node_info", *words, user="service", check=False)
    return [f"{line.split()[4]} {line.split()[6]}" for line in said.splitlines()]


def written_on(lab: Lab, way: str) -> str:
    """The node on which a client of the gateway's writes; empty if none. The shared address does not tell it."""
    dsn = f"{way} user=app dbname=app passfile=/etc/repmgr-hooks/pgpass connect_timeout=10"
    insert = "insert into work default values returning id"
    question = f"with written as ({insert}) select current_setting('cluster_name') from written"
    result = lab.gateway.result("psql", "-XAtqc", question, dsn, user="service", limit=60)
    return result.stdout.strip()
