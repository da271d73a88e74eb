"""Failover after failover under load, kills and Barman outages; then the backup is restored, and compared row by row.

Run as root from the repository, with the package installed in .venv::

    .venv/bin/python -m tests.bench.soak [--failovers N] [--seed S] [--logs DIR]

One lab of two nodes; the slot is tracked, Barman's stream is repaired. The base backup is older than the first
failover, so a restore goes through all timelines. What asynchronous replication loses is lost to the cluster, and is
told; a row that the cluster has and the restore has not is lost to the backup. The exit code is 1 if there is one, and
2 if something hung: after each failover ``status`` and ``check-wal`` must become good. The seed gives the same faults
at the same moments; the machine does the rest.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from tests.endtoend.looks import barman_streams_from, follows, routes, slot, worker_log
from tests.lab import ADDRESSES, BASE, DATA, Failed, Host, Lab, must, wait_for
from tests.lab.contain import contain
from tests.lab.three import rejoin
from tests.lab.versions import BINARIES

CONFIG = "/etc/repmgr-hooks/config.yaml"
SERVER = "/etc/barman.d/main_backup.conf"
RESTORED = "/var/lib/barman/restored"
LEAD = 5.0
"""Seconds from the beginning of a failover's plan to its fault."""
LIMIT = 90.0
"""Seconds for each thing that is waited for."""
RESTART = 2  # RestartSec of systemd/repmgr-hooks.service
APP_PORT = 54322

SETTINGS = (
    ("state: absent", "state: synced"),
    ("stream: true", "stream: true, repair: true"),
    ("fail_open_after: 120", "fail_open_after: 8"),
    ("{changes: 5, window: 600}", "{changes: 1000, window: 600}"),
    ("{initial_delay: 5, max_delay: 300, max_attempts: 20}", "{initial_delay: 2, max_delay: 5, max_attempts: 1000}"),
)
# Nobody waits for the standby, nothing but a slot keeps WAL, and what no slot keeps is soon gone.
SETTINGS_OF_NODES = "synchronous_standby_names = ''\nwal_keep_size = 0\nmin_wal_size = '32MB'\nmax_wal_size = '48MB'\n"

ROWS = "select id || ' ' || length(payload) || ' ' || (payload = repeat(md5(id::text), length(payload) / 32)) from soak"
CUT = "OUTPUT -p tcp -m conntrack --ctorigdstport 54321 -j DROP"


def configure(lab: Lab) -> None:
    """Only after the first ``reconcile``: Barman may take longer to start than the gate waits from then on."""
    text = lab.gateway.path(CONFIG).read_text()
    for old, new in SETTINGS:
        assert old in text, old
        text = text.replace(old, new)
    lab.put(lab.gateway, CONFIG, text)


# -- the plan of a failover --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Plan:
    """What happens around one failover; moments in seconds after the fault, so those before it are negative."""

    fault: str
    """fast, immediate, killed (the postmaster), or unplugged."""
    lag: bool
    """The standby receives nothing just before the fault, while WAL files are closed: Barman gets ahead of it."""
    quiet: bool
    """The client pauses, and the last thing before the fault is a WAL switch."""
    outage: str
    """Of Barman: none, receiver (killed), port (cut), or down (its configuration is gone)."""
    began: float
    ended: float
    cron: bool
    """Whether Barman's cron runs."""
    worker_killed: tuple[float, ...]
    churns: tuple[float, ...]
    """When a WAL file is closed, and both nodes get rid of what they need no more."""
    undead: float
    """For how long an unplugged primary is back before it is stopped."""
    rejoined: float
    """How long after the failover the old primary joins the new one."""
    clone: bool
    """It does so as a new copy."""

    def __str__(self) -> str:
        return ", ".join(self._words())

    def _words(self) -> Iterator[str]:
        yield self.fault
        yield from (word for word in ("lag", "quiet") if getattr(self, word))
        if self.outage != "none":
            yield f"barman {self.outage} {self.began:+.0f}..{self.ended:+.0f}"
        if not self.cron:
            yield "no cron"
        if self.worker_killed:
            yield "worker killed " + " ".join(f"{moment:+.1f}" for moment in self.worker_killed)


def draw(chance: random.Random) -> Plan:
    """Return a plan; the same chance gives the same one."""
    fault = chance.choice(("fast", "immediate", "killed", "unplugged"))
    began = chance.uniform(-LEAD, 3)
    return Plan(
        fault=fault,
        # A stop -m fast waits for the standby.
        lag=chance.random() < 0.4 and fault != "fast",
        quiet=chance.random() < 0.3,
        outage=chance.choice(("none", "receiver", "port", "port", "down", "down")),
        began=began,
        ended=began + chance.uniform(2, 14),
        cron=chance.random() < 0.7,
        worker_killed=tuple(sorted(chance.uniform(-2, 8) for _ in range(chance.choice((0, 0, 1, 1, 2))))),
        churns=tuple(sorted(chance.uniform(-LEAD, 8) for _ in range(chance.randint(0, 6)))),
        undead=chance.uniform(0, 4),
        rejoined=chance.uniform(0, 4),
        clone=chance.random() < 0.15,
    )


Action = tuple[float, Callable[[], object]]


# -- what happens ------------------------------------------------------------------------------------------------------


@dataclass
class Soak:
    """A lab in service under load, and what came of each failover."""

    lab: Lab
    seed: str
    primary: Host = field(init=False)
    standby: Host = field(init=False)
    lost: set[int] = field(default_factory=set)
    """Rows that were acknowledged, and that no promoted standby had."""

    def __post_init__(self) -> None:
        self.primary, self.standby = self.lab.db1, self.lab.db2

    # -- the lab --

    def open(self) -> None:
        """Bring the lab into service, make the one base backup, and start the load."""
        lab = self.lab
        lab.build()
        for host in lab.databases:
            lab.append(host, f"{DATA}/postgresql.conf", SETTINGS_OF_NODES)
            host.pg_ctl("reload")
        # Else it compresses.
        kept = "alter table soak alter payload set storage external, owner to app"
        lab.db1.sql(f"create table soak (id bigint primary key, payload text not null); {kept}", "app")
        result = lab.gateway.hooks("reconcile")
        if result.returncode != 0:
            raise Failed(result.stdout + result.stderr)
        configure(lab)
        lab.start_cron()
        self.start_service()
        lab.start_repmgrd()
        self.start_load()
        wait_for(lambda: barman_streams_from(self.primary), "Barman to stream", LIMIT)
        self.close_and_archive()
        lab.gateway.barman("backup", "--immediate-checkpoint", "main_backup")
        self.wait_until_whole("the beginning")

    def start_load(self) -> None:
        dsn = f"host={ADDRESSES['gateway']} port={APP_PORT} user=app dbname=app connect_timeout=2"
        program = (Path(__file__).parent / "writer.py").read_text()
        words = ("/opt/repmgr-hooks/bin/python", "-c", program, dsn, self.seed)
        self.lab.daemons["writer"] = self.lab.app.start(*words, user="postgres", log="writer")
        wait_for(self.acknowledged, "the first row", LIMIT)

    def acknowledged(self) -> set[int]:
        """The rows of which the client was told that they are committed."""
        return {int(row) for row in re.findall(r"^committed (\d+)$", self.lab.app.log("writer"), re.MULTILINE)}

    def pause_load(self, really: bool) -> None:
        self.lab.daemons["writer"].send_signal(signal.SIGSTOP if really else signal.SIGCONT)

    # -- one failover --

    def fail_over(self, plan: Plan) -> str:
        """Let it all happen, and return in words what came of it. Raises Failed with what hung."""
        lab, old, new = self.lab, self.primary, self.standby
        before, said = self.acknowledged(), len(worker_log(lab))
        watched = len(lab.gateway.log(self.repmgrd_of(old)))
        began = time.monotonic() + LEAD
        with ThreadPoolExecutor(2) as pool:
            happening = [
                pool.submit(carry_out, began, actions) for actions in (self.around(plan), self.to_the_worker(plan))
            ]
            time.sleep(max(0.0, began - time.monotonic()))
            fault = time.monotonic()
            self.break_primary(plan)
            wait_for(lambda: new.sql("select pg_is_in_recovery()") == "f", f"{new.name} to be promoted", LIMIT)
            wait_for(lambda: routes(lab).get(APP_PORT) == new.address, f"the app port to lead to {new.name}", LIMIT)
            opened = time.monotonic() - fault
            promised = self.acknowledged()
            time.sleep(plan.rejoined)
            how = self.rejoin_old(plan)
            for item in happening:
                item.result(LIMIT)
        self.pause_load(False)
        self.primary, self.standby = new, old
        wait_for(lambda: self.acknowledged() - promised, "the client to write again", LIMIT)
        self.start_cron_again()
        self.wait_until_whole("the end of the failover")
        self.let_repmgrd_watch(old, watched)
        # What was acknowledged before all this has long been replicated.
        gone = promised - before - set(self.rows(new))
        self.lost |= gone
        wrote = len(self.acknowledged()) - len(before)
        positions = self.positions("\n".join(worker_log(lab)[said:]))
        return (
            f"{old.name} {plan}: port open after {opened:.1f} s, all whole after {time.monotonic() - fault:.1f} s, "
            f"{how}, {wrote} rows, {len(gone)} lost by replication{positions}"
        )

    def let_repmgrd_watch(self, host: Host, since: int) -> None:
        """Wait until the node's repmgrd has seen that it is a standby now; one that does not is started anew."""
        daemon, log = self.repmgrd_of(host), self.lab.gateway.log
        watching = re.compile("switching to standby monitoring|monitoring connection to upstream")
        try:
            wait_for(lambda: watching.search(log(daemon)[since:]), f"{daemon} to watch a standby", 15)
        except Failed:
            print(f"    {daemon} is started anew", flush=True)
            self.lab.daemons[daemon].kill()
            self.lab.daemons[daemon].wait(10)
            self.lab.start_repmgrd(self.lab.databases.index(host) + 1)

    def repmgrd_of(self, host: Host) -> str:
        return f"repmgrd{self.lab.databases.index(host) + 1}"

    def positions(self, log: str) -> str:
        """What Barman's position was found to be, as far as it was not simply behind."""
        found = [
            word
            for word in ("STREAM_GAP", "DIVERGED", "SEGMENT_BOUNDARY", "NOT_IN_HISTORY", "ARCHIVE_GAP")
            if f"{word}: " in log
        ]
        moved = re.findall(r"  move (.*) there", log)
        begun = re.findall(r"let receive-wal begin at (\w+)", log)
        repaired = [f"repaired at {place}" for place in begun] + [f"moved {names}" for names in moved]
        return "".join(f", {what}" for what in dict.fromkeys((*found, *repaired)))

    def around(self, plan: Plan) -> list[Action]:
        """Everything but the fault and what happens to the worker."""
        old, new = self.primary, self.standby
        actions: list[Action] = [(moment, self.churn) for moment in plan.churns]
        if not plan.cron:
            actions.append((-LEAD, self.stop_cron))
        if plan.outage != "none":
            actions += [(plan.began, lambda: self.outage(plan)), (plan.ended, lambda: self.outage_over(plan))]
        if plan.lag:
            receiver = processes_of(new, "walreceiver")
            actions += [(-2.0, lambda: send(receiver, signal.SIGSTOP)), (0.5, lambda: send(receiver, signal.SIGCONT))]
            actions += [(moment, lambda: close_file(old)) for moment in (-1.6, -1.3, -1.0)]
        if plan.quiet:
            actions += [(-1.0, lambda: self.pause_load(True)), (-0.4, lambda: close_file(old))]
            actions += [(1.0, lambda: self.pause_load(False))]
        return sorted(actions, key=lambda action: action[0])

    def to_the_worker(self, plan: Plan) -> list[Action]:
        return [(moment, self.kill_worker) for moment in plan.worker_killed]

    def start_service(self) -> None:
        """The worker, and what systemd does when it ends."""
        script = f"while :; do /usr/local/bin/repmgr-hooks worker; sleep {RESTART}; done"
        self.lab.daemons["service"] = self.lab.gateway.start("sh", "-c", script, user="service", log="worker")

    def kill_worker(self) -> None:
        """kill -9, also of one that the hook has started because there was none."""
        send(processes_of(self.lab.gateway, r"^\S*python\S* \S*repmgr-hooks worker( --once)? $"), signal.SIGKILL)

    def churn(self) -> None:
        """A node may be down or not yet promoted; then nothing happens there."""
        for host in self.lab.databases:
            for statement in ("select pg_switch_wal()", "checkpoint"):
                with suppress(Failed):
                    host.sql(statement)

    def stop_cron(self) -> None:
        os.killpg(self.lab.daemons["cron"].pid, signal.SIGKILL)

    def start_cron_again(self) -> None:
        if self.lab.daemons["cron"].poll() is not None:
            self.lab.start_cron()

    def outage(self, plan: Plan) -> None:
        if plan.outage == "port":
            self.lab.gateway.run("iptables", "-I", *CUT.split())
        if plan.outage == "down":
            self.lab.gateway.path(SERVER).rename(self.lab.gateway.path(SERVER + ".away"))
        if plan.outage in ("receiver", "down"):
            send(processes_of(self.lab.gateway, "receive-?wal"), signal.SIGKILL)

    def outage_over(self, plan: Plan) -> None:
        if plan.outage == "port":
            self.lab.gateway.run("iptables", "-D", *CUT.split())
        if plan.outage == "down":
            self.lab.gateway.path(SERVER + ".away").rename(self.lab.gateway.path(SERVER))

    def break_primary(self, plan: Plan) -> None:
        if plan.fault == "unplugged":
            self.lab.unplug(self.primary)
        elif plan.fault == "killed":
            os.kill(int(self.primary.path(f"{DATA}/postmaster.pid").read_text().split()[0]), signal.SIGKILL)
        else:
            self.primary.pg_ctl("stop", "-m", plan.fault)

    def rejoin_old(self, plan: Plan) -> str:
        """Make the old primary a standby; return how."""
        old, new = self.primary, self.standby
        if plan.fault == "unplugged":
            self.lab.plug_in(old)
            time.sleep(plan.undead)
            old.pg_ctl("stop", "-m", "fast")
        wait_for(lambda: not processes_of(old, "postgres"), f"{old.name} to be gone", LIMIT)
        if not plan.clone:
            try:
                rejoin(old, new, limit=25)
                return "rewound"
            except (Failed, subprocess.TimeoutExpired) as error:
                print(f"    {old.name} cannot be rewound: {' '.join(str(error).split())[-200:]}", flush=True)
        self.clone_anew(old, new)
        return "cloned"

    def clone_anew(self, host: Host, primary: Host) -> None:
        """What a DBA does with a node that cannot be rewound."""
        with suppress(Failed):
            host.pg_ctl("stop", "-m", "immediate")
        shutil.rmtree(host.path(DATA))
        repmgr = ("repmgr", "-f", f"/etc/repmgr/{host.name}.conf")
        source = ("-h", primary.address, "-U", "repmgr", "-d", "repmgr")
        host.run(*repmgr, *source, "standby", "clone", "--fast-checkpoint", user="postgres")
        self.lab.put(host, f"{DATA}/conf.d.conf", self.lab.config(f"postgresql-{host.name}.conf"), owner="postgres")
        host.pg_ctl("start")
        host.run(*repmgr, "standby", "register", "--force", user="postgres")

    # -- what is seen --

    def wait_until_whole(self, when: str) -> None:
        """Wait until nothing is wrong any more. Raises Failed with what is."""
        lab, gateway = self.lab, self.lab.gateway
        looks: list[tuple[str, Callable[[], bool]]] = [
            ("both ports", lambda: set(routes(lab).values()) == {self.primary.address} and len(routes(lab)) == 2),
            ("the standby", lambda: follows(self.standby, self.primary)),
            ("the slot of the standby", lambda: slot(self.standby) == "f|t|reserved"),
            ("Barman's stream", lambda: barman_streams_from(self.primary)),
            ("repmgr-hooks status", lambda: gateway.hooks("status").returncode == 0),
            ("repmgr-hooks check-wal", lambda: gateway.hooks("check-wal").returncode == 0),
        ]
        for what, look in looks:
            try:
                wait_for(look, f"{what} at {when}", LIMIT, every=0.3)
            except Failed as error:
                shown = gateway.hooks("status").stdout + gateway.hooks("check-wal").stdout
                raise Failed(f"{error}\n{shown}") from error

    def close_and_archive(self) -> None:
        self.lab.gateway.barman("switch-wal", "--force", "--archive", "--archive-timeout=60", "main_backup")

    def rows(self, host: Host) -> dict[int, str]:
        """The rows of a node: their length, and whether they are whole."""
        return rows_in(host.sql(ROWS, "app", limit=LIMIT))

    def restore(self) -> dict[int, str]:
        """Restore the base backup on the gateway, and return the rows after all the WAL there is."""
        gateway = self.lab.gateway
        self.close_and_archive()
        self.wait_until_whole("the end")
        gateway.barman("recover", "--get-wal", "--target-tli", "latest", "main_backup", "oldest", RESTORED)
        self.lab.put(gateway, f"{RESTORED}/pg_hba.conf", "local all all trust\n", owner="barman")
        options = [
            *("-c", "port=6000", "-c", "listen_addresses=", "-c", f"unix_socket_directories={RESTORED}"),
            *("-c", "synchronous_standby_names=", "-c", "shared_preload_libraries="),
            # What Barman writes there is the same with sudo.
            *("-c", "restore_command=barman get-wal main_backup %f > %p"),
        ]
        postgres = f"{BINARIES}/postgres"
        self.lab.daemons["restored"] = gateway.start(postgres, "-D", RESTORED, *options, user="barman", log="restored")
        wait_for(lambda: self.ask_restored("select pg_is_in_recovery()") == "f", "the restore", 600, every=1)
        return rows_in(self.ask_restored(ROWS))

    def ask_restored(self, statement: str) -> str:
        words = ("psql", "-XAtq", "-h", RESTORED, "-p", "6000", "-U", "postgres", "-d", "app", "-c", statement)
        return self.lab.gateway.run(*words, user="barman", check=False, limit=LIMIT).strip()


def carry_out(began: float, actions: list[Action]) -> None:
    for moment, action in actions:
        time.sleep(max(0.0, began + moment - time.monotonic()))
        action()


def close_file(host: Host) -> None:
    """Close a WAL file with something in it; two statements, so that nothing follows the switch."""
    host.sql("select txid_current()")
    host.sql("select pg_switch_wal()")


def rows_in(text: str) -> dict[int, str]:
    return {int(row): rest for row, _, rest in (line.partition(" ") for line in text.splitlines())}


def processes_of(host: Host, pattern: str) -> list[int]:
    """The processes of a host whose command line matches."""
    found = []
    for process in map(int, must("ip", "netns", "pids", host.name).split()):
        with suppress(OSError):
            words = Path(f"/proc/{process}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if re.search(pattern, words):
                found.append(process)
    return found


def send(processes: list[int], number: int) -> None:
    for process in processes:
        with suppress(ProcessLookupError):
            os.kill(process, number)


# -- the program -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Result:
    """What a soak has shown."""

    acknowledged: int
    lost_by_replication: int
    """Acknowledged, and in neither node: no promoted standby had them."""
    lost_to_backup: tuple[int, ...]
    """In the cluster, and not the same after the restore."""
    dead: tuple[int, ...]
    """In the restore, and not in the cluster: WAL from beyond a switchpoint was replayed."""
    damaged: tuple[int, ...]
    unexplained: tuple[int, ...]
    """Acknowledged and gone, though a promoted standby had them."""
    timeline: int

    @property
    def healthy(self) -> bool:
        return not (self.lost_to_backup or self.dead or self.damaged or self.unexplained)

    def __str__(self) -> str:
        wrong = {
            "lost to the backup": self.lost_to_backup,
            "of a dead timeline in the restore": self.dead,
            "damaged": self.damaged,
            "gone without a reason": self.unexplained,
        }
        counts = ", ".join(f"{len(rows)} {what}{f' {rows[:5]}' if rows else ''}" for what, rows in wrong.items())
        return (
            f"{self.acknowledged} rows acknowledged, {self.lost_by_replication} of them lost by replication; "
            f"restored through {self.timeline} timelines: {counts}"
        )


def soak(lab: Lab, seed: str, failovers: int) -> Result:
    """Do it all in a lab that is not built yet. Raises Failed with what hung."""
    run = Soak(lab, seed)
    run.open()
    for number in range(1, failovers + 1):
        plan = draw(random.Random(f"{seed}-{number}"))
        print(f"{number:3} {run.fail_over(plan)}", flush=True)
    lab.daemons["writer"].terminate()
    lab.daemons["writer"].wait(10)
    final = run.rows(run.primary)
    restored = run.restore()
    acknowledged = run.acknowledged()
    gone = acknowledged - set(final)
    return Result(
        acknowledged=len(acknowledged),
        lost_by_replication=len(run.lost),
        lost_to_backup=tuple(sorted(row for row in final if restored.get(row) != final[row])),
        dead=tuple(sorted(set(restored) - set(final))),
        damaged=tuple(sorted(row for row, said in final.items() if not said.endswith("true"))),
        unexplained=tuple(sorted(gone - run.lost)),
        timeline=int(run.primary.sql("select timeline_id from pg_control_checkpoint()")),
    )


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.soak", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--failovers", type=int, default=20, metavar="N")
    parser.add_argument("--seed", default=str(secrets.randbelow(10000)))
    text = "copy what all daemons have written to this directory"
    parser.add_argument("--logs", type=lambda name: Path(name).absolute(), metavar="DIR", help=text)
    arguments = parser.parse_args()
    if os.geteuid() != 0:
        sys.exit("needs root: it makes network namespaces")
    contain([sys.executable, "-m", "tests.bench.soak", *sys.argv[1:], "--seed", arguments.seed])
    print(f"seed {arguments.seed}", flush=True)
    lab = Lab()
    begun = time.monotonic()
    try:
        result = soak(lab, arguments.seed, arguments.failovers)
    except (Failed, subprocess.TimeoutExpired) as error:
        print(f"HUNG: {error}", flush=True)
        return 2
    finally:
        keep_logs(arguments.logs)
    print(
        f"{arguments.failovers} failovers to timeline {result.timeline} in {time.monotonic() - begun:.0f} s: {result}"
    )
    print("PASS" if result.healthy else "FAIL")
    return 0 if result.healthy else 1


def keep_logs(place: Path | None) -> None:
    if place:
        place.mkdir(parents=True, exist_ok=True)
        for log in (
            *BASE.glob("*.log"),
            BASE / "gateway/var/log/barman/barman.log",
            *BASE.glob(f"db?{DATA}/server.log"),
        ):
            if log.exists():
                shutil.copy(log, place / "-".join(log.relative_to(BASE).parts))


if __name__ == "__main__":
    sys.exit(main())
