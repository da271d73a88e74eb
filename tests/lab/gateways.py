"""A lab with two gateways that share an address: real keepalived and conntrackd, with the shipped files.

Barman is on a host of its own, ``backup``, which both reach by ssh, and which comes through the shared address itself.
repmgrd is on the database hosts.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from repmgr_hooks.checks.gateways import KEEPALIVED
from repmgr_hooks.netfilter.conntrackd import CONFIGURATION as CONNTRACKD
from repmgr_hooks.netfilter.family import Family
from repmgr_hooks.setup import gateways
from tests.lab import BASE, CONFIG, CONFIG_FILE, Failed, Host, Lab, must, on_nodes, said, three, wait_for
from tests.lab.barman import back_up

VIRTUAL = "10.0.0.20"
OWN = {"gateway": "10.0.0.21", "gateway2": "10.0.0.22"}
SHELL = "shell: [ssh, -o, BatchMode=yes, 'postgres@"
DAEMONS = ("worker", "keepalived", "conntrackd")
READ_AGAIN = "the configuration has been read again"


class TwoGateways(Lab):
    """``gateway`` and ``gateway2``; what a Lab does with its one gateway it does with the first."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.own = {name: self.adapted(address) for name, address in OWN.items()}
        self.gateways = [Host(name, address, False, self.backend) for name, address in self.own.items()]
        self.gateway, self.gateway2 = self.gateways
        self.backup = Host("backup", self.adapted("10.0.0.40"))

    @property
    def hosts(self) -> list[Host]:
        return [*super().hosts, self.gateway2, self.backup]

    @property
    def barmans(self) -> list[Host]:
        """The hosts that have a Barman in service."""
        return [self.backup]

    @property
    def known_address(self) -> str:
        return self.adapted(VIRTUAL)

    def config(self, name: str) -> str:
        text = super().config(name)
        if name == "config.yaml":
            hosts = f"address: {self.known_address}\n      hosts: {list(self.own.values())}"
            text = text.replace(f"address: {self.known_address}", hosts).replace("{changes: 5, ", "{changes: 50, ")
            for each in self.databases:
                text = text.replace(f"{{host: {each.address}}}", f"{{host: {each.address}, {SHELL}{each.address}']}}")
            ssh = f"command: [ssh, -o, BatchMode=yes, 'barman@{self.backup.address}', barman]"
            return text.replace("command: [barman]", ssh)
        # The probes of a gateway come from its own address.
        gateway, lan = self.adapted(f"{VIRTUAL}/32  "), self.adapted("10.0.0.0/24  ")
        return text.replace(gateway, lan) if name == "pg_hba.conf" else text

    # -- building ---------------------------------------------------------------------------------------------------

    def install_gateway(self) -> None:
        """Put our files on both, and Barman's on its host."""
        first = self.gateways[0]
        for host in self.gateways[::-1]:
            self.gateway = host
            super().install_gateway()
            self._share_address(host)
        for place in ("/etc/barman.conf", "/etc/barman.d/main_backup.conf"):
            self.put(self.backup, place, first.path(place).read_text())
        for host in self.databases:
            host.path("/usr/local/bin/repmgr-hooks").symlink_to("/opt/repmgr-hooks/bin/repmgr-hooks")
            self.put(host, CONFIG_FILE, self.adapted((CONFIG / "database-host.yaml").read_text()))
            self.put(host, "/etc/tmpfiles.d/repmgr-hooks.conf", (CONFIG / "database-host-tmpfiles.conf").read_text())
            host.run("systemd-tmpfiles", "--create", "/etc/tmpfiles.d/repmgr-hooks.conf")

    def _share_address(self, host: Host) -> None:
        other = next(each for each in self.gateways if each.name != host.name)
        words = {gateways.SHARED: self.known_address, gateways.OWN: host.address, gateways.PEER: other.address}
        for place in (KEEPALIVED, CONNTRACKD):
            text = gateways.filled((CONFIG / Path(place).name).read_text(), words)
            # Both are in one /run here.
            self.put(host, place, text.replace("/run/conntrackd.ctl", f"/var/lib/{host.name}.ctl"))
        self.put(host, "/etc/keepalived/repmgr-hooks-track", (CONFIG / "repmgr-hooks-track").read_text(), 0o755)

    def start_hosts(self) -> None:
        """Not before the databases are there: what is mounted later is not there for a daemon that runs."""
        super().start_hosts()
        self._start_ssh()

    def _start_ssh(self) -> None:
        """Barman's user of each gateway gets in where Barman is; postgres on the nodes, from them and the gateways."""
        server = self.barmans[0]
        Path("/run/sshd").mkdir(exist_ok=True)
        self.db1.path("/root").mkdir(exist_ok=True)
        key, public = three.new_key(self)
        for host in (*self.gateways, self.backup):
            three.let_in(self, host, "barman", key, public)
        for host in self.databases:
            three.let_in(self, host, "postgres", key, public)
        for host in (*self.databases, server):
            three.start_sshd(self, host, key)

    def open(self, repmgrd: bool = True) -> None:
        """Bring it into service; the first gateway has the address, for it starts first."""
        self.build()
        for host in self.barmans:
            words = ("sh", "-c", "while :; do barman -q cron; sleep 60; done")
            self.daemons[f"cron {host.name}"] = host.start(*words, user="barman", log="cron")
        for host in self.gateways:
            self.start_gateway(host)
            wait_for(lambda: self.holders() == [self.gateway], "the first gateway to have the address")
        for host in self.gateways:
            wait_for(lambda h=host: len(self.led(h)) == 2, f"{host.name} to lead both ports")
        for host in self.barmans:
            back_up(self, self.db1, host)
        if repmgrd:
            on_nodes.start_repmgrd(self)

    # -- gateways ---------------------------------------------------------------------------------------------------

    def start_gateway(self, host: Host) -> None:
        """What starts on a gateway at boot, once the network is up: what conntrackd asks the other for before an IPv6
        address has been found to be nobody else's is lost, and ``check`` says so ever after."""
        # The kernel begins that up to 1 s after a cable is plugged in, with the state (net/core/link_watch.c).
        shown = lambda: host.run("ip", "addr", "show", "eth0")  # noqa: E731
        wait_for(lambda: " state UP " in (now := shown()) and "tentative" not in now, f"the address of {host.name}")
        # Of one that was killed; a host that starts anew has none.
        host.path("/run/lock/conntrackd.lock").unlink(missing_ok=True)
        self.daemons[f"conntrackd {host.name}"] = host.start("conntrackd", log="conntrackd")
        self.start_keepalived(host)
        wait_for(self.holders, "a gateway to have the address")
        result = host.hooks("boot")
        if result.returncode != 0:
            raise Failed(result.stdout + result.stderr)
        self.start_service(host)

    def start_keepalived(self, host: Host) -> None:
        words = ("keepalived", "--vrrp", "--dont-fork", "--log-console", "--log-detail")
        # Both are in one /run here. From 2.3.2 on one that begins locks the file of BFD, too, until it knows that there
        # is none (pidfile.c, keepalived_running): of two that began at once the second said that it runs, and ended.
        kinds = {"pid": "", "vrrp_pid": "-vrrp", "bfd_pid": "-bfd"}
        pids = (f"--{option}=/var/lib/{host.name}{kind}.pid" for option, kind in kinds.items())
        self.daemons[f"keepalived {host.name}"] = host.start(*words, *pids, log="keepalived")

    def stop_keepalived(self, host: Host) -> None:
        """It takes the address away as it ends."""
        daemon = self.daemons.pop(f"keepalived {host.name}")
        daemon.terminate()
        daemon.wait(60)

    def start_service(self, host: Host) -> None:
        """As ``start_worker``, on one of the two."""
        place, runtime = BASE / f"notify-{host.name}", Path(f"/run/repmgr-hooks-{host.name}")
        place.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
            systemd.bind(str(place))
            place.chmod(0o666)
            systemd.settimeout(180)
            runtime.mkdir(exist_ok=True)
            shutil.chown(runtime, "barman", "barman")
            given = (f"NOTIFY_SOCKET={place}", f"RUNTIME_DIRECTORY={runtime}")
            words = ("env", *given, "/usr/local/bin/repmgr-hooks", "worker")
            self.daemons[f"worker {host.name}"] = host.start(*words, user="service", log="worker")
            try:
                ready = systemd.recv(100)
            except TimeoutError:
                ready = b"nothing"
        if ready != b"READY=1":
            raise Failed(f"the service of {host.name} said {ready!r}\n{host.log('worker')}")

    def configure_gateways(self, change: Callable[[str], str]) -> None:
        """Give both services another configuration, as ``systemctl reload`` does."""
        for host in self.gateways:
            self.put(host, CONFIG_FILE, change(host.path(CONFIG_FILE).read_text()))
            before = host.log("worker").count(READ_AGAIN)
            self.daemons[f"worker {host.name}"].send_signal(signal.SIGHUP)
            wait_for(lambda h=host, n=before: h.log("worker").count(READ_AGAIN) > n, f"{host.name} to read it again")

    def kill_gateway(self, host: Host) -> float:
        """Power off: nothing of it answers, and nothing in its memory is left. Return when."""
        at = time.time()
        self.unplug(host)
        for name in DAEMONS:
            self.kill(name, host)
        address = f"ip addr del {self.known_address} dev eth0"
        for words in ("conntrack -F -f ipv4", "conntrack -F -f ipv6", "nft flush ruleset", address):
            host.run(*words.split(), check=False)
        return at

    def pause(self, host: Host) -> None:
        """As a virtual machine is paused: nothing of it runs, and nothing reaches it; it has its address and rules."""
        self.unplug(host)
        self._signal(host, signal.SIGSTOP)

    def go_on(self, host: Host) -> float:
        """End a pause. Return when."""
        at = time.time()
        self.plug_in(host)
        self._signal(host, signal.SIGCONT)
        return at

    def _signal(self, host: Host, number: signal.Signals) -> None:
        for name in DAEMONS:
            for process in _session(self.daemons[f"{name} {host.name}"].pid):
                with suppress(ProcessLookupError):
                    os.kill(process, number)

    def kill(self, name: str, host: Host) -> None:
        """Kill a daemon of a gateway and what it has started; the processes of its session are its own."""
        daemon = self.daemons.pop(f"{name} {host.name}")
        for process in _session(daemon.pid):
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        daemon.wait(60)

    def holders(self) -> list[Host]:
        """The gateways that have the address."""
        return [host for host in self.gateways if f" {self.known_address}/" in host.run("ip", "addr", "show", "eth0")]

    def led(self, host: Host) -> dict[int, str]:
        """Where the ports of a gateway lead."""
        rule = re.compile(r"dport (\d+) .*(?:--to-destination|dnat to) \[?([0-9a-f.:]+?)\]?:5432")
        return {int(found[1]): found[2] for line in host.nat() if (found := rule.search(line))}

    def tracked(self, host: Host) -> str:
        """The connections to the shared address that a gateway tracks."""
        words = (*Family(self.known_address).list_connections(self.known_address), "--state", "ESTABLISHED")
        return said(host.result(*words), "conntrack")


class TwoBarmans(TwoGateways):
    """A Barman on each of the two gateways, as ``config/two-gateways.yaml`` has it; the host ``backup`` has none."""

    def config(self, name: str) -> str:
        return super().config("two-gateways.yaml" if name == "config.yaml" else name)

    @property
    def barmans(self) -> list[Host]:
        return self.gateways

    def install_gateway(self) -> None:
        super().install_gateway()
        for number, host in enumerate(self.gateways, 1):
            place = "/etc/barman.d/main_backup.conf"
            text = host.path(place).read_text().replace("slot_name = barman\n", f"slot_name = barman_{number}\n")
            self.put(host, place, text)


def _session(leader: int) -> list[int]:
    """The processes of a session."""
    found = must("ps", "-o", "pid=", "-s", str(leader))
    return [int(word) for word in found.split()]
