"""A real cluster on one machine: db1, db2, gateway and app, each in its own network namespace.

Everything is built from the files in ``config/``: they are copied to where they belong, and only passwords are added.
A lab of three nodes has a db3 too, and ssh between the nodes; see ``three.py``. One with ``six`` has IPv6 addresses and
no others; see ``six.py``. One with ``rpm`` has the layout of PGDG's RPMs; see ``rpm.py``.
Must run inside the box of ``contain.py``.
"""

from __future__ import annotations

import hashlib
import os
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self, TypeVar

from tests.lab import layers, rpm, scram, six, template, three, versions
from tests.lab.contain import contained
from tests.lab.layers import BASE
from tests.lab.versions import BINARIES, DATA

REPOSITORY = Path(__file__).resolve().parents[2]
CONFIG = REPOSITORY / "config"
ADDRESSES = {"db1": "10.0.0.11", "db2": "10.0.0.12", "db3": "10.0.0.13", "gateway": "10.0.0.20", "app": "10.0.0.30"}
PYTHON = "/opt/repmgr-hooks/bin/python"
CONFIG_FILE = "/etc/repmgr-hooks/config.yaml"
RUNTIME = Path("/run/repmgr-hooks")
"""RuntimeDirectory of the service; /run is the box's own, and in memory."""
T = TypeVar("T")
PATIENCE = 3
"""How many times longer a wait may take on a machine that is busy with other things."""
RESTS_FOR, LONGEST_REST = 4, 5.0
"""A wait rests for so many times what a question has taken of a processor, and for so many seconds at most."""
PRIVATE = ("/etc", "/var", "/run/postgresql", "/run/lock", "/usr/local/bin", "/usr/local/share", "/opt")
HOMES = {
    "postgres": "/var/lib/postgresql",
    "barman": "/var/lib/barman",
    "service": "/var/lib/barman",
    "root": "/root",
    "nobody": "/",
    "daemon": "/",
}

ENTER = """
set -e
host=$1 user=$2 home=$3; shift 3
{layer}
mount --all --fstab {base}/$host.fstab
cd /
export HOME=$home USER=$user LOGNAME=$user PATH=/usr/local/bin:{binaries}/usr/sbin:/usr/bin:/sbin:/bin {environment}
export PYTHONFAULTHANDLER=1
if [ $user = root ]; then exec "$@"; fi
if [ $user = service ]; then
    # What systemd/repmgr-hooks.service says: User, SupplementaryGroups, capabilities, NoNewPrivileges.
    exec setpriv --reuid barman --regid barman --groups barman,{repmgrd} --inh-caps=-all,+net_admin,+net_raw \\
        --ambient-caps=-all,+net_admin,+net_raw --bounding-set=-all,+net_admin,+net_raw --no-new-privs "$@"
fi
exec setpriv --reuid $user --regid $user --init-groups "$@"
"""


# Debian 12's Barman compares versions with distutils. Where setuptools is installed, that is setuptools' own (its
# distutils-precedence.pth), and half of each start of Barman's is spent on importing all of it. Python's own has been
# taken out in 3.12: there BARMAN takes setuptools' without the rest of it.
ENVIRONMENT = "SETUPTOOLS_USE_DISTUTILS=stdlib" if sys.version_info < (3, 12) else ""

# As the scripts that Debian and pip write. But Debian's looks for itself in the metadata of all that is installed, and
# Python's end looks for garbage among all that was imported: together a third of each start of Barman's. A restore's
# processes import it once more, from Python 3.14 on (multiprocessing, forkserver).
BARMAN = """import gc, sys
gc.disable()
if sys.version_info >= (3, 12):
    sys.modules["distutils"] = distutils = type(sys)("distutils")
    distutils.__path__ = ["/usr/lib/python3/dist-packages/setuptools/_distutils"]
try:
    from barman.cli.main import main
except ModuleNotFoundError:
    from barman.cli import main
gc.enable()
gc.freeze()
if __name__ == "__main__":
    sys.exit(main())
"""


class Failed(AssertionError):
    """A command in the lab did not work."""


@dataclass(frozen=True)
class Host:
    """One machine: its network namespace and its private directories.

    Paths and commands are given as on Debian; on a host with the layout of the RPMs they are those.
    """

    name: str
    address: str
    rpm: bool = False
    backend: str = "iptables"
    """What writes the gateway's rules."""
    beside: str = ""
    """The host whose network it shares, if it has none of its own."""
    port: int = 5432
    """Of its PostgreSQL."""

    def path(self, inside: str) -> Path:
        """Where a path of this host stands for us."""
        return BASE / self.name / (rpm.adapted(inside) if self.rpm else inside).lstrip("/")

    def argv(self, words: list[str] | tuple[str, ...], user: str = "root") -> list[str]:
        home = rpm.adapted(HOMES[user]) if self.rpm else HOMES[user]
        command = rpm.words(words) if self.rpm else words
        account = rpm.of_gateway(user) if self.rpm and self.name == "gateway" else user
        return [
            "ip",
            "netns",
            "exec",
            self.beside or self.name,
            str(BASE / "enter"),
            self.name,
            account,
            home,
            *command,
        ]

    def run(self, *words: str, user: str = "root", check: bool = True, limit: float = 120, stdin: str = "") -> str:
        """Run a command here and return stdout; with ``check``, a non-zero exit raises Failed."""
        result = self.result(*words, user=user, limit=limit, stdin=stdin)
        return said(result, f"{self.name}: {' '.join(words)}") if check else result.stdout

    def result(
        self, *words: str, user: str = "root", limit: float = 120, stdin: str = ""
    ) -> subprocess.CompletedProcess[str]:
        """Run a command here and return how it ended. Raises TimeoutExpired, with what it was doing (``told``)."""
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        with subprocess.Popen(self.argv(words, user), text=True, **pipes) as process:
            try:
                output, errors = process.communicate(stdin, timeout=limit)
            except subprocess.TimeoutExpired as late:
                late.add_note(told(process))
                raise
            except BaseException:
                process.kill()
                raise
            return subprocess.CompletedProcess(words, process.returncode, output, errors)

    def start(
        self, *words: str, user: str = "root", log: str = "daemon", output: int | None = None
    ) -> subprocess.Popen[bytes]:
        """Start a daemon here, in a session of its own; its output goes to ``log``, or to a descriptor."""
        with (BASE / f"{self.name}-{log}.log").open("ab") as file:
            return subprocess.Popen(
                self.argv(words, user),
                stdin=subprocess.DEVNULL,
                stdout=file if output is None else output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def log(self, name: str) -> str:
        """What a daemon has written so far."""
        return (BASE / f"{self.name}-{name}.log").read_text(errors="replace")

    def log_from_now(self, name: str) -> Callable[[], str]:
        """What a daemon writes from now on: one that has run before has already said that it is ready."""
        before = len(self.log(name)) if (BASE / f"{self.name}-{name}.log").exists() else 0
        return lambda: self.log(name)[before:]

    def sql(self, statement: str, dbname: str = "postgres", limit: float = 120) -> str:
        """Ask the PostgreSQL of this host through its socket; pg_promote() alone may take a minute."""
        words = ("psql", "-XAtq", "-v", "ON_ERROR_STOP=1", "-p", str(self.port), "-d", dbname, "-c", statement)
        return self.run(*words, user="postgres", limit=limit).strip()

    def pg_ctl(self, verb: str, *more: str) -> str:
        """Start, stop (or else) this host's PostgreSQL. To stop fast waits for a receiver that is cut off (60 s)."""
        words = ("pg_ctl", "-D", DATA, "-w", "-t", "120", "-l", f"{DATA}/server.log", verb, *more)
        if verb != "reload":
            return self.run(*words, user="postgres", limit=150)
        with self.reloading():
            return self.run(*words, user="postgres")

    @contextmanager
    def reloading(self) -> Iterator[None]:
        """Who asks for a reload does not wait for it; a session that shows another time was begun after it."""
        before = self.sql("select pg_conf_load_time()")
        yield
        wait_for(lambda: self.sql("select pg_conf_load_time()") != before, f"{self.name} to have read its files again")

    def barman(self, *words: str, check: bool = True, limit: float = 300) -> str:
        """Run barman here, as its user."""
        return self.run("barman", *words, user="barman", check=check, limit=limit)

    def hooks(self, *words: str, user: str = "root", limit: float = 300) -> subprocess.CompletedProcess[str]:
        """Run repmgr-hooks here."""
        return self.result("/usr/local/bin/repmgr-hooks", *words, user=user, limit=limit)

    def nat(self) -> list[str]:
        """The nat table, see ``rules``; with nftables our own table, priorities as numbers (nft 1.1 names more)."""
        if self.backend == "iptables":
            return self.rules("nat")
        family = "ip6" if ":" in self.address else "ip"
        listing = self.run("nft", "--numeric-priority", "list", "table", family, "repmgr_hooks_main", check=False)
        return [re.sub(r" counter packets \d+ bytes \d+", "", line).strip() for line in listing.splitlines()]

    def rules(self, table: str) -> list[str]:
        """A table without its time stamps and counters; from iptables 1.8.10 on its own chains have some too."""
        save = "ip6tables-save" if ":" in self.address else "iptables-save"
        lines = self.run(save, "-t", table).splitlines()
        return [re.sub(r" \[\d+:\d+\]$", "", line) for line in lines if line[0] in ":-"]

    def saved_nat(self) -> str:
        """The nat table, as ``restore_nat`` takes it."""
        if self.backend == "iptables":
            return self.run("ip6tables-save" if ":" in self.address else "iptables-save", "-t", "nat")
        return self.run("nft", "list", "ruleset")

    def restore_nat(self, saved: str) -> None:
        """Have the rules that another lab's gateway had."""
        if self.backend == "iptables":
            self.run("ip6tables-restore" if ":" in self.address else "iptables-restore", stdin=saved)
        else:
            self.run("nft", "-f", "-", stdin=saved)

    def wipe_nat(self) -> None:
        """As a reload of a firewall that knows only its own rules; at once, for the service looks every few seconds."""
        if self.backend == "iptables":
            self.run("iptables-restore", stdin="*nat\nCOMMIT\n")
        else:
            self.run("nft", "-f", "-", stdin="flush ruleset\n")


@dataclass
class Lab:
    """The hosts and their daemons; ``nodes`` is 2 or 3, ``six``: with IPv6 addresses, ``rpm``: as PGDG's RPMs have it.

    The gateway's Barman is Debian's, or the newest there is.
    """

    nodes: int = 2
    six: bool = False
    newest_barman: bool = False
    segment_mb: int = 16
    """The size of a WAL file."""
    rpm: bool = False
    backend: str = "iptables"
    """What writes the gateway's rules."""
    db1: Host = field(init=False)
    db2: Host = field(init=False)
    db3: Host = field(init=False)
    gateway: Host = field(init=False)
    app: Host = field(init=False)
    daemons: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    passwords: dict[str, str] = field(default_factory=dict)
    venv: Path = REPOSITORY / ".venv"

    def __post_init__(self) -> None:
        for name, address in ADDRESSES.items():
            setattr(self, name, Host(name, self.adapted(address), self.rpm, self.backend))

    @property
    def databases(self) -> list[Host]:
        return [self.db1, self.db2, self.db3][: self.nodes]

    @property
    def hosts(self) -> list[Host]:
        return [*self.databases, self.gateway, self.app]

    @property
    def barman(self) -> tuple[int, int]:
        """The version of the gateway's Barman."""
        return versions.barman(REPOSITORY / ".venv-barman/bin/python" if self.newest_barman else "/usr/bin/python3")

    @property
    def kept_as_a_whole(self) -> bool:
        """True if what the first ``reconcile`` leaves is the same for each such lab, and need not be made again."""
        return type(self) is Lab and self.venv == REPOSITORY / ".venv" and self.segment_mb == template.LARGEST

    @property
    def numbers(self) -> tuple[int, ...]:
        """The node ids."""
        return tuple(range(1, self.nodes + 1))

    def node(self, number: int) -> Host:
        return self.databases[number - 1]

    def config(self, name: str) -> str:
        """A file of ``config/``, as a cluster of so many nodes with such addresses and versions has it."""
        text = (CONFIG / name.replace("db3", "db2")).read_text().replace("/NN/", f"/{versions.POSTGRESQL}/")
        text = text.replace("backend: iptables", f"backend: {self.backend}")
        return self.adapted(text if self.nodes == 2 else three.adapted(name, text))

    def adapted(self, text: str) -> str:
        """A text with the addresses and places of this lab."""
        text = rpm.adapted(text) if self.rpm else text
        return six.adapted(text) if self.six else text

    def of_gateway(self, text: str) -> str:
        """A text with the user that repmgrd has on the gateway."""
        return rpm.of_gateway(text) if self.rpm else text

    # -- building ---------------------------------------------------------------------------------------------------

    def build(self) -> None:
        """Build everything up to a registered, backed-up cluster whose ports are closed and whose hook is idle."""
        self.make_network()
        self.make_directories()
        template.make_databases(self)
        self.start_hosts()

    def start_hosts(self) -> None:
        """Start what else runs on the hosts of such a cluster."""
        if self.nodes == 3:
            three.start_ssh(self)

    def reconcile(self) -> None:
        """Open the ports and have Barman stream. Raises Failed."""
        result = self.gateway.hooks("reconcile")
        if result.returncode != 0:
            raise Failed(result.stdout + result.stderr)

    def receiver_begins(self) -> Callable[[], bool]:
        """True once a receiver of Barman's says that it begins, or if one streams: to read a log costs little."""
        if self.backed_up():
            return lambda: True
        log = self.gateway.path("/var/log/barman/barman.log")
        before = len(log.read_bytes())
        return lambda: b"starting log streaming" in log.read_bytes()[before:]

    def backed_up(self) -> bool:
        """True while Barman streams from db1."""
        streams = "select state from pg_stat_replication where application_name = 'barman_receive_wal'"
        return self.db1.sql(streams) == "streaming"

    def open(self, repmgrd: bool = True) -> None:
        """Build everything and bring it into service: ports open, Barman streaming and cron running, each repmgrd."""
        self.build_service()
        self.serve(repmgrd)

    def build_service(self) -> None:
        """Build everything as the first ``reconcile`` leaves it: ports open, and what Barman needs; no daemon of ours,
        and perhaps no receiver, runs. The configuration may be changed before they do (``serve``)."""
        self.make_network()
        self.make_directories()
        template.make_service(self)

    def serve(self, repmgrd: bool = True) -> None:
        """Start what a cluster has in service: Barman's cron, the service, each repmgrd."""
        begun = self.receiver_begins()
        self.start_cron()
        wait_for(lambda: begun() and self.backed_up(), "Barman to stream")
        self.start_worker()
        if repmgrd:
            self.start_repmgrd()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.destroy()

    def destroy(self) -> None:
        """Kill every process but ours and our ancestors, and remove the hosts; the next lab starts from nothing."""
        if not contained():
            raise Failed("destroy() must not run outside the box of contain.py")
        # Until they have ended: one that is killed while it writes a file makes it all the same.
        wait_for(lambda: not kill_all_others(), "the processes of the lab to end")
        for daemon in self.daemons.values():
            daemon.wait(60)
        self.remove_network()
        shutil.rmtree(RUNTIME, ignore_errors=True)
        layers.empty()

    def make_network(self) -> None:
        own = [host for host in self.hosts if not host.beside]
        # One program for many changes: each start of ip takes as long as what it does.
        lines = ["link set lo up", "link add lan type bridge", "link set lan up"]
        for host in own:
            lines += [
                f"netns add {host.name}",
                f"link add {host.name} type veth peer name eth0 netns {host.name}",
                f"link set {host.name} master lan up",
            ]
        must("ip", "-batch", "-", stdin="\n".join(lines))
        for host in own:
            # A new IPv6 address can be used after a second, when nobody is known to have it.
            address = f"{host.address}/64 dev eth0 nodad" if self.six else f"{host.address}/24 dev eth0"
            lines = [f"addr add {address}", "link set eth0 up", "link set lo up"]
            # A new namespace has it from the first one of the machine (net.core.devconf_inherit_init_net).
            script = "echo 0 > /proc/sys/net/ipv4/ip_forward; exec ip -batch -"
            must("ip", "netns", "exec", host.name, "sh", "-ec", script, stdin="\n".join(lines))

    def remove_network(self) -> None:
        """What is not there was never made, or a test has taken it away."""
        names = [host.name for host in self.hosts]
        lines = [*(f"link del {name}" for name in [*names, "lan"]), *(f"netns del {name}" for name in names)]
        words = ("ip", "-force", "-batch", "-")
        subprocess.run(words, input="\n".join(lines).encode(), stderr=subprocess.DEVNULL, timeout=60, check=False)

    def make_directories(self) -> None:
        enter = BASE / "enter"
        layer, binaries = "", f"{BINARIES}:"
        if self.rpm:
            rpm.make_layer(BASE / "usr")
            layer, binaries = rpm.MOUNT.format(layer=BASE / "usr"), ""
        text = ENTER.format(
            base=BASE,
            binaries=binaries,
            environment=ENVIRONMENT,
            layer=layer,
            repmgrd=self.of_gateway("postgres"),
        )
        enter.write_text("#!/bin/sh" + text)
        enter.chmod(0o755)
        self.make_program(BASE / "program", PYTHON, (self.venv / "bin/repmgr-hooks").read_text().split("\n", 1)[1])
        self.make_program(BASE / "barman", "/usr/bin/python3", BARMAN)
        for place in PRIVATE:
            Path(place).mkdir(parents=True, exist_ok=True)
        for user in ("repmgr", "barman", "streaming_barman", "app"):
            # The same in each lab, as the databases are, see ``template.py``.
            self.passwords[user] = hashlib.sha256(user.encode()).hexdigest()[:16]
        for host in self.hosts:
            self.make_host(host)
        self.install_gateway()

    def make_host(self, host: Host) -> None:
        for place in (*PRIVATE, "/var/lib", "/var/log", "/opt/repmgr-hooks", "/opt/barman"):
            host.path(place).mkdir(parents=True, exist_ok=True)
        (BASE / f"{host.name}.fstab").write_text(self.fstab(host))
        layers.mount_etc(host.path("/etc"))
        if self.rpm:
            rpm.make_etc(host.path("/etc"), host is self.gateway)
        for place in ("/tmp", "/var/tmp"):
            host.path(place).mkdir()
            host.path(place).chmod(0o1777)
        host.path("/var/run").symlink_to("/run")
        for place, owner in (
            ("/var/lib/postgresql", "postgres"),
            ("/var/lib/barman", "barman"),
            ("/var/log/barman", "barman"),
            ("/run/postgresql", "postgres"),
        ):
            host.path(place).mkdir(parents=True, exist_ok=True)
            shutil.chown(host.path(place), owner, owner)
        for owner in ("postgres", "barman"):
            self.put(host, f"{HOMES[owner]}/.pgpass", self.pgpass(), 0o600, owner)
        for node in self.databases:
            self.put(host, f"/etc/repmgr/{node.name}.conf", self.config(f"repmgr-{node.name}.conf"))

    def fstab(self, host: Host) -> str:
        """What stands where for a command on this host: one ``mount`` takes a third of the time that ten take."""
        mounts: dict[str, Path] = {place: BASE / host.name / place.lstrip("/") for place in PRIVATE}
        mounts |= {"/opt/repmgr-hooks": self.venv, "/opt/repmgr-hooks/bin/repmgr-hooks": BASE / "program"}
        mounts |= {"/usr/bin/barman": BASE / "barman"}
        if self.newest_barman:
            mounts |= {"/opt/barman": REPOSITORY / ".venv-barman"}
        # repmgr keeps files here, under the node's name, which another lab has too. Last, for the venv may stand here.
        mounts |= {"/tmp": BASE / host.name / "tmp"}
        return "".join(f"{source} {place} none rbind\n" for place, source in mounts.items())

    def install_gateway(self) -> None:
        """Put our files where the README says."""
        gateway = self.gateway
        self.put(gateway, CONFIG_FILE, self.config("config.yaml"))
        self.put(gateway, "/etc/repmgr-hooks/pgpass", self.pgpass(), 0o600, "barman")
        self.put(gateway, "/etc/tmpfiles.d/repmgr-hooks.conf", self.of_gateway((CONFIG / "tmpfiles.conf").read_text()))
        gateway.run("systemd-tmpfiles", "--create", "/etc/tmpfiles.d/repmgr-hooks.conf")
        sudoers = self.of_gateway((CONFIG / "sudoers").read_text())
        self.put(gateway, "/etc/sudoers.d/repmgr-hooks", sudoers, 0o440)
        locks = versions.KEEPS_LOCKS if self.barman >= (3, 10) else ""
        self.put(gateway, "/etc/barman.conf", self.config("barman.conf") + locks + (rpm.BARMAN if self.rpm else ""))
        self.put(gateway, "/etc/barman.d/main_backup.conf", self.config("barman.d/main_backup.conf"))
        if self.newest_barman:
            self.make_program(gateway.path("/usr/local/bin/barman"), "/opt/barman/bin/python", BARMAN)
        gateway.path("/usr/local/bin/repmgr-hooks").symlink_to("/opt/repmgr-hooks/bin/repmgr-hooks")
        gateway.run("sysctl", "-q", "-p", "/dev/stdin", stdin=self.config("sysctl.conf"))

    @staticmethod
    def make_program(place: Path, python: str, program: str) -> None:
        """Write a program of Python's; its environment may be mounted elsewhere."""
        place.write_text(f"#!{python}\n{program}")
        place.chmod(0o755)

    def put(self, host: Host, place: str, text: str, mode: int = 0o644, owner: str = "root") -> None:
        """Write a file of a host."""
        path = host.path(place)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(mode)
        shutil.chown(path, owner, owner)

    def pgpass(self) -> str:
        return "".join(f"*:*:*:{user}:{password}\n" for user, password in self.passwords.items())

    def make_primary(self) -> None:
        db1 = self.db1
        size = f"--wal-segsize={self.segment_mb}"
        db1.run("initdb", "--no-sync", "-A", "peer", size, "-D", DATA, user="postgres")
        self.configure(db1)
        # Nobody can acknowledge a commit yet.
        self.put(db1, f"{DATA}/alone.conf", "synchronous_standby_names = ''\n", owner="postgres")
        self.append(db1, f"{DATA}/postgresql.conf", "include_if_exists 'alone.conf'\n")
        db1.pg_ctl("start")
        for user, rights in (
            ("repmgr", "superuser"),
            ("barman", "superuser"),
            ("streaming_barman", "replication"),
            ("app", ""),
        ):
            db1.sql(f"create role {user} login {rights} password '{scram.verifier(self.passwords[user])}'")
        db1.sql("create database repmgr owner repmgr")
        db1.sql("create database app owner app")
        db1.sql("create table work (id bigserial primary key, at timestamptz default clock_timestamp())", "app")
        db1.sql("alter table work owner to app", "app")
        db1.run("repmgr", "-f", "/etc/repmgr/db1.conf", "primary", "register", user="postgres")

    def configure(self, host: Host) -> None:
        self.put(host, f"{DATA}/conf.d.conf", self.config(f"postgresql-{host.name}.conf"), owner="postgres")
        self.append(host, f"{DATA}/postgresql.conf", "include 'conf.d.conf'\nfsync = off\n")
        self.put(host, f"{DATA}/pg_hba.conf", self.config("pg_hba.conf"), owner="postgres")

    def append(self, host: Host, place: str, text: str) -> None:
        with host.path(place).open("a") as file:
            file.write(text)

    def make_standby(self, host: Host) -> None:
        repmgr = ("repmgr", "-f", f"/etc/repmgr/{host.name}.conf")
        host.run(
            *repmgr,
            *["-h", self.db1.address, "-U", "repmgr", "-d", "repmgr", "standby", "clone", "--fast-checkpoint"],
            user="postgres",
        )
        self.configure(host)
        self.put(host, f"{DATA}/alone.conf", "", owner="postgres")
        self.start_standby(host)
        host.run(*repmgr, "standby", "register", user="postgres")

    def start_databases(self) -> None:
        self.db1.pg_ctl("start")
        for host in self.databases[1:]:
            self.start_standby(host)

    def start_standby(self, host: Host) -> None:
        """Start a standby, until it streams: repmgr registers none whose walsender is in the state "startup"."""
        host.pg_ctl("start")
        streams = f"select state from pg_stat_replication where application_name = '{host.name}'"
        wait_for(lambda: self.db1.sql(streams) == "streaming", f"{host.name} to stream")

    # -- daemons ----------------------------------------------------------------------------------------------------

    def start_repmgrd(self, *nodes: int) -> None:
        """Start repmgrd on the gateway, one for each node, as in the article."""
        nodes = nodes or self.numbers
        said = {node: self.gateway.log_from_now(f"repmgrd{node}") for node in nodes}
        for node in nodes:
            self._start_repmgrd(node, f"/etc/repmgr/db{node}.conf", f"repmgrd{node}")
        # Not "starting monitoring": then it still gives up at once if the primary does not answer.
        ready = re.compile("monitoring (connection to upstream|cluster primary)")
        for node in nodes:
            wait_for(lambda n=node: self._runs(n) and ready.search(said[n]()), f"repmgrd of node {node}")

    def _runs(self, node: int) -> bool:
        """True if a node's repmgrd has not ended, as it does while its node starts; its unit starts it anew then."""
        if self.daemons[f"repmgrd{node}"].poll() is None:
            return True
        self._start_repmgrd(node, f"/etc/repmgr/db{node}.conf", f"repmgrd{node}")
        return False

    def start_passive_repmgrd(self) -> None:
        """Start a repmgrd for each node that is there, promotes nothing and reports nothing, until ``start_repmgrd``.

        Without one nobody could fail over, and neither ``status`` nor ``check`` is content.
        """
        for node in self.numbers:
            text = re.sub(
                "(?m)^(event_notification|promote|follow)_command.*$", "", self.config(f"repmgr-db{node}.conf")
            )
            place = f"/etc/passive/db{node}.conf"
            self.put(self.gateway, place, text.replace("failover=automatic", "failover=manual"))
            self._start_repmgrd(node, place, f"passive{node}")
        seen = "select not pg_is_in_recovery() or repmgr.get_upstream_last_seen() between 0 and 5"
        for host in self.databases:
            wait_for(lambda h=host: h.sql(seen, "repmgr") == "t", f"repmgrd of {host.name} to see the primary")
        self.gateway.run("rm", "-r", "/etc/passive")  # they have read it; `check` would find that it lacks the line

    def _start_repmgrd(self, node: int, conf: str, log: str) -> None:
        self.stop_repmgrd(node)
        words = ("repmgrd", "-f", conf, "--daemonize=false", "--no-pid-file")
        self.daemons[f"repmgrd{node}"] = self.gateway.start(*words, user="postgres", log=log)

    def stop_repmgrd(self, *nodes: int) -> None:
        """End each repmgrd, or those of some nodes."""
        for node in nodes or self.numbers:
            if daemon := self.daemons.pop(f"repmgrd{node}", None):
                daemon.terminate()
                daemon.wait(90)

    def start_worker(self, *environment: str, output: int | None = None) -> None:
        """Start repmgr-hooks.service as its unit says: the user, the capabilities, and Type=notify.

        ``environment``: more of it; ``output``: where its log goes, else to a file.
        """
        place = BASE / "notify"
        place.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
            systemd.bind(str(place))
            place.chmod(0o666)
            systemd.settimeout(180)
            RUNTIME.mkdir(exist_ok=True)
            shutil.chown(RUNTIME, "barman", "barman")
            given = (f"NOTIFY_SOCKET={place}", f"RUNTIME_DIRECTORY={RUNTIME}")
            words = ("env", *given, *environment, "/usr/local/bin/repmgr-hooks", "worker")
            self.daemons["worker"] = self.gateway.start(*words, user="service", log="worker", output=output)
            try:
                told = systemd.recv(100)
            except TimeoutError:
                told = b"nothing"
        if told != b"READY=1":
            raise Failed(f"the service said {told!r} instead of READY=1\n{self.gateway.log('worker')}")

    def start_cron(self) -> None:
        """Start what cron does for Barman: ``barman cron`` once a minute."""
        script = "while :; do barman -q cron; sleep 60; done"
        self.daemons["cron"] = self.gateway.start("sh", "-c", script, user="barman", log="cron")

    # -- what happens to a cluster ----------------------------------------------------------------------------------

    def unplug(self, host: Host) -> None:
        """Pull the network cable: nothing reaches the host, and no reset comes back."""
        must("ip", "link", "set", host.name, "down")

    def plug_in(self, host: Host) -> None:
        must("ip", "link", "set", host.name, "up")

    @property
    def known_address(self) -> str:
        """The address that clients know."""
        return self.gateway.address

    @property
    def app_port(self) -> str:
        return f"host={self.known_address} port=54322"

    def start_client(self, host: Host | None = None, name: str = "client", way: str = "", patience: int = 2) -> Client:
        """Start a client, on the application's host or another, and wait for its first write.

        It comes through the app port, or another ``way``: libpq's words for where to connect. ``patience``: how many
        seconds it waits for a connection.
        """
        host = host or self.app
        (BASE / f"{host.name}-{name}.log").write_bytes(b"")
        dsn = f"{way or self.app_port} user=app dbname=app connect_timeout={patience}"
        words = (PYTHON, "-c", (Path(__file__).parent / "client.py").read_text(), dsn)
        client = Client(host, host.start(*words, user="postgres", log=name), name)
        client.wait_for_write(0)
        return client

    def psql_app(self, statement: str, limit: float = 60, patience: int = 20) -> subprocess.CompletedProcess[str]:
        """Ask through the app port, from the application's host; ``patience``: seconds to wait for a connection."""
        dsn = f"{self.app_port} user=app dbname=app connect_timeout={patience}"
        return self.app.result("psql", "-XAtq", dsn, "-c", statement, user="postgres", limit=limit)


def kill_all_others() -> list[int]:
    """Kill every process in the box but its first, our parent and us; return those that had not ended before."""
    alive = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) not in {1, os.getpid(), os.getppid()}:
            with suppress(FileNotFoundError, ProcessLookupError):
                if (entry / "stat").read_text().rpartition(")")[2].split()[0] not in "ZX":
                    alive.append(int(entry.name))
                    os.kill(int(entry.name), signal.SIGKILL)
    return alive


def must(*words: str, stdin: str = "") -> str:
    """Run a command outside the hosts; a non-zero exit raises Failed."""
    result = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False, input=stdin)
    return said(result, " ".join(words))


def said(result: subprocess.CompletedProcess[str], what: str) -> str:
    """Return stdout of a command that worked. Raises Failed."""
    if result.returncode != 0:
        raise Failed(f"{what}: {result.returncode}\n{result.stdout}\n{result.stderr}")
    return result.stdout


def told(process: subprocess.Popen[str]) -> str:
    """End a process that hangs, and return what runs and what it said; a Python says where it was (ENTER)."""
    everything = ("ps", "-ww", "-eLo", "pid,ppid,stat,wchan:20,etimes,args")
    running = subprocess.run(everything, capture_output=True, text=True, timeout=60, check=False).stdout
    process.send_signal(signal.SIGABRT)
    try:
        said = process.communicate(timeout=20)
    except subprocess.TimeoutExpired:  # who holds its output goes on
        process.kill()
        return running
    return "\n".join((running, *said))


def wait_for(true: Callable[[], object], what: str, limit: float = 60, every: float = 0.1) -> None:
    """Wait until something is true. Raises Failed after ``limit`` seconds, on a machine that has nothing else to do.

    Only what is broken takes that long, so on a busy machine it may take ``PATIENCE`` times that. A question that
    starts programs is asked less often, so that it takes a fifth of a processor at most.
    """
    end = time.monotonic() + limit * PATIENCE
    begun = processor_time()
    while not true():
        if time.monotonic() > end:
            raise Failed(f"waited {limit * PATIENCE} s in vain for {what}")
        rest(every, begun)
        begun = processor_time()


def rest(every: float, begun: float) -> None:
    """Wait between two questions, the first of which began at this processor time."""
    time.sleep(max(every, min(RESTS_FOR * (processor_time() - begun), LONGEST_REST)))


def processor_time() -> float:
    """Seconds that the programs which we have started, and which have ended, took of a processor."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def wait_for_answer(
    ask: Callable[[], T], good: Callable[[T], object], what: str, limit: float = 60, every: float = 0.5
) -> T:
    """Ask until the answer is good, and return it; as ``wait_for``, and Failed shows the last one."""
    end = time.monotonic() + limit * PATIENCE
    begun = processor_time()
    while not good(answer := ask()):
        if time.monotonic() > end:
            raise Failed(f"waited {limit * PATIENCE} s in vain for {what}; the last answer: {answer}")
        rest(every, begun)
        begun = processor_time()
    return answer


@dataclass(frozen=True)
class Write:
    """One try of the client to write: when it began and ended, and the id that was committed (None: it failed)."""

    begun: float
    ended: float
    row: int | None
    error: str = ""


@dataclass
class Client:
    """The application's client, running on its host; see ``client.py``."""

    host: Host
    process: subprocess.Popen[bytes]
    name: str

    def writes(self) -> list[Write]:
        """All writes so far."""
        lines = [line.split(maxsplit=3) for line in self.host.log(self.name).splitlines()]
        return [
            Write(float(begun), float(ended), None if row == "-" else int(row), " ".join(error))
            for begun, ended, row, *error in lines
        ]

    def wait_for_write(self, after: float, limit: float = 60) -> Write:
        """Wait for the first successful write that began after a moment. Raises Failed."""
        wait_for(lambda: self._first(after), f"a write that begins after {after:.3f}", limit)
        found = self._first(after)
        assert found is not None
        return found

    def _first(self, after: float) -> Write | None:
        return next((write for write in self.writes() if write.row is not None and write.begun > after), None)

    def outage(self, since: float) -> float:
        """Seconds between the last successful write before a moment and the first one that ended after it."""
        good = [write.ended for write in self.writes() if write.row is not None]
        return min(moment for moment in good if moment > since + 0.2) - max(m for m in good if m <= since + 0.2)

    def longest_outage(self, since: float) -> float:
        """The most seconds between two successful writes that follow each other, after a moment."""
        good = [write.ended for write in self.writes() if write.row is not None and write.ended > since]
        return round(max(following - moment for moment, following in zip(good, good[1:], strict=False)), 3)

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(60)
