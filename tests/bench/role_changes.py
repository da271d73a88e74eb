"""Role changes that come before the one before is digested; after each, what Barman restores equals the cluster.

Run as root from the repository, with the package installed in .venv::

    .venv/bin/python -m tests.bench.role_changes [--changes N] [--seed S]

Three nodes and no repmgrd: this program is the DBA. It promotes a second standby as soon as the first is a primary, and
that one dies, or a standby that lags; or it returns to the old primary. Timeline numbers are used twice, and Barman is
ahead of the new primary. A client writes meanwhile. Then the other nodes join, what ``reconcile`` says is typed, and
the newest backup is restored and compared row by row. The exit code is 1 if a restore differs, and 2 if something hung.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import secrets
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass, field

from tests.bench.soak import configure, processes_of, send
from tests.endtoend.looks import barman_streams_from, follows, routes
from tests.endtoend.test_point_in_time import recover
from tests.lab import DATA, Failed, Host, Lab, wait_for
from tests.lab.barman import archive, back_up
from tests.lab.contain import contain

LIMIT = 120.0
KINDS = ("failover", "second", "second", "lagging", "lagging", "return")
FAULTS = ("fast", "immediate", "killed")
SETTINGS_OF_NODES = "synchronous_standby_names = ''\nwal_keep_size = 0\nmax_wal_size = '64MB'\nmin_wal_size = '32MB'\n"
WAY_OUT = re.compile(r"to continue, run[^:]*: (.*?)\. Then make a base backup", re.IGNORECASE)


@dataclass(frozen=True)
class Plan:
    """One role change."""

    kind: str
    """failover; second: the promoted standby dies too; lagging: one that lags is promoted; return: to the primary."""
    fault: str
    after: float
    """Seconds from the first promotion to what comes next: mostly less than a failover takes to be digested."""
    files: int
    """WAL files that are closed while the standby lags, or under the primary that will be given up."""

    def __str__(self) -> str:
        return f"{self.kind}, {self.fault}, {self.after:.1f} s, {self.files} files"


def draw(chance: random.Random) -> Plan:
    """Return a plan; the same chance gives the same one."""
    return Plan(chance.choice(KINDS), chance.choice(FAULTS), chance.uniform(0, 6), chance.randint(0, 3))


@dataclass
class RoleChanges:
    """A lab in service under load."""

    lab: Lab
    primary: Host = field(init=False)
    backups: int = 0

    def open(self) -> None:
        """Bring the lab into service, with one backup."""
        lab = self.lab
        lab.build()
        self.primary = lab.db1
        for host in lab.databases:
            lab.append(host, f"{DATA}/postgresql.conf", SETTINGS_OF_NODES)
            host.pg_ctl("reload")
        result = lab.gateway.hooks("reconcile")
        if result.returncode:
            raise Failed(result.stdout + result.stderr)
        configure(lab)
        lab.start_cron()
        lab.start_worker()
        back_up(lab, lab.db1)

    # -- one role change --

    def change(self, plan: Plan) -> str:
        """Let it happen, and return in words what came of it. Raises Failed with what hung."""
        began = time.monotonic()
        client = self.lab.start_client()
        old, first, second = self.primary, *self.others(self.primary)
        if plan.kind == "lagging":
            receiver = processes_of(first, "walreceiver")
            send(receiver, signal.SIGSTOP)
            self.close_files(old, plan.files, client_writes=True)
        self.stop(old, plan.fault if plan.kind != "lagging" else "immediate")
        if plan.kind == "lagging":
            send(receiver, signal.SIGCONT)
        self.promote(first)
        self.primary = first
        if plan.kind in ("second", "return"):
            time.sleep(plan.after)
            self.close_files(first, plan.files)
            self.stop(first, "immediate")
        if plan.kind == "second":
            self.promote(second)
            self.primary = second
        if plan.kind == "return":
            old.pg_ctl("start")
            self.primary = old
            self.lab.gateway.hooks("reconcile", "--reset-state")
        # Whether the backup can follow at once or not, the clients do.
        wait_for(
            lambda: routes(self.lab).get(54322) == self.primary.address, f"the app port: {self.primary.name}", LIMIT
        )
        client.wait_for_write(time.time(), LIMIT)
        for host in self.others(self.primary):
            self.join(host)
        done = self.until_whole()
        client.stop()
        rows = self.compare()
        what, took = "; ".join(done) or "nothing to do", time.monotonic() - began
        return f"{plan}: {self.primary.name}, {rows} rows, {what}, {took:.0f} s"

    def others(self, host: Host) -> list[Host]:
        return [other for other in self.lab.databases if other is not host]

    def stop(self, host: Host, fault: str) -> None:
        if fault != "killed":
            host.pg_ctl("stop", "-m", fault)
            return
        os.kill(int(host.path(f"{DATA}/postmaster.pid").read_text().split()[0]), signal.SIGKILL)
        wait_for(lambda: not processes_of(host, "postgres"), f"{host.name} to be gone", LIMIT)

    def promote(self, host: Host) -> None:
        host.sql("select pg_promote()", limit=LIMIT)
        wait_for(lambda: host.sql("select pg_is_in_recovery()") == "f", f"{host.name} to be promoted", LIMIT)

    def close_files(self, host: Host, count: int, client_writes: bool = False) -> None:
        for _ in range(count):
            if not client_writes:
                host.sql("insert into work select from generate_series(1, 20)", "app")
            host.sql("select txid_current()")
            host.sql("select pg_switch_wal()")
            time.sleep(0.3)

    def join(self, host: Host) -> None:
        """Let a node follow the primary: as it is, if its WAL allows that, else as a new copy."""
        upstream = f"host={self.primary.address} user=repmgr application_name={host.name}"
        if processes_of(host, "postgres") and host.sql("select pg_is_in_recovery()") == "t":
            host.sql(f"alter system set primary_conninfo = '{upstream}'")
            host.pg_ctl("reload")
            try:
                wait_for(lambda: self.goes_on(host), f"{host.name} to follow", 10)
                return
            except Failed:
                pass
        if processes_of(host, "postgres"):
            host.pg_ctl("stop", "-m", "immediate")
        shutil.rmtree(host.path(DATA))
        words = ("pg_basebackup", "-d", upstream, "-D", DATA, "-R", "-X", "stream", "-c", "fast", "--no-sync")
        host.run(*words, user="postgres", limit=LIMIT)
        self.lab.put(host, f"{DATA}/conf.d.conf", self.lab.config(f"postgresql-{host.name}.conf"), owner="postgres")
        host.pg_ctl("start")
        wait_for(lambda: follows(host, self.primary), f"{host.name} to follow {self.primary.name}", LIMIT)

    def goes_on(self, host: Host) -> bool:
        """A standby of another branch streams for a moment too."""
        self.primary.sql("select txid_current()")
        end = self.primary.sql("select pg_current_wal_lsn()")
        time.sleep(0.3)
        behind = f"select pg_last_wal_replay_lsn() < '{end}'"
        return follows(host, self.primary) and host.sql(behind) == "f"

    # -- what is seen --

    def until_whole(self) -> list[str]:
        """Do what is said, until Barman streams and its archive is whole; return what was done. Raises Failed."""
        done: list[str] = []
        end = time.monotonic() + 2 * LIMIT
        while not self.whole():
            if time.monotonic() > end:
                said = self.lab.gateway.hooks("status").stdout + self.lab.gateway.hooks("check-wal").stdout
                raise Failed(f"it does not become whole; {done}\n{said}")
            said = " ".join(self.lab.gateway.hooks("reconcile").stdout.split())
            if found := WAY_OUT.search(said):
                self.type(found[1].split("; "))
                done.append("another branch moved aside")
            elif "STREAM_GAP" in said or "ARCHIVE_GAP" in said:
                done.append("a gap")
            else:
                time.sleep(1)
                continue
            self.lab.gateway.hooks("reconcile")
            back_up(self.lab, self.primary)
            self.backups += 1
        return done

    def whole(self) -> bool:
        return barman_streams_from(self.primary) and self.lab.gateway.hooks("check-wal").returncode == 0

    def type(self, commands: Iterable[str]) -> None:
        for command in commands:
            self.lab.gateway.run(*shlex.split(command), user="barman", check="--stop" not in command)

    def compare(self) -> int:
        """Restore, and return how many rows there are. Raises AssertionError if the restore is not the cluster."""
        archive(self.lab, self.primary)
        place = "/var/lib/barman/restored"
        restored = recover(self.lab, "restored", "--no-get-wal", "--target-tli", "latest")
        shutil.rmtree(self.lab.gateway.path(place))
        lines = self.primary.sql("select id, extract(epoch from at) from work", "app").split()
        rows = {int(row): float(at) for row, at in (line.split("|") for line in lines)}
        lost, dead = rows.items() - restored.items(), restored.items() - rows.items()
        assert not lost, f"{len(lost)} of {len(rows)} rows lost to the backup: {sorted(lost)[:5]}"
        assert not dead, f"{len(dead)} rows of another branch in the restore: {sorted(dead)[:5]}"
        return len(rows)


def play(lab: Lab, seed: str, plans: Iterable[Plan]) -> None:
    """Do it all in a lab that is not built yet. Raises Failed with what hung, AssertionError with what differs."""
    run = RoleChanges(lab)
    run.open()
    for number, plan in enumerate(plans, 1):
        print(f"seed {seed}, {number:2}: {run.change(plan)}", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.role_changes")
    parser.add_argument("--changes", type=int, default=20, metavar="N")
    parser.add_argument("--seed", default=str(secrets.randbelow(10000)))
    arguments = parser.parse_args()
    if os.geteuid() != 0:
        sys.exit("needs root: it makes network namespaces")
    contain([sys.executable, "-m", "tests.bench.role_changes", *sys.argv[1:], "--seed", arguments.seed])
    begun = time.monotonic()
    plans = [draw(random.Random(f"{arguments.seed}-{number}")) for number in range(1, arguments.changes + 1)]
    try:
        play(Lab(nodes=3), arguments.seed, plans)
    except AssertionError as error:
        print(f"FAIL: {error}", flush=True)
        return 1
    except (Failed, subprocess.TimeoutExpired) as error:
        print(f"HUNG: {error}", flush=True)
        return 2
    print(
        f"PASS: {arguments.changes} role changes in {time.monotonic() - begun:.0f} s, each restore equals the cluster"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
