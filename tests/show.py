"""A real failover, told in plain words while it happens. ``tests/demo`` prepares the machine and starts this."""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

from tests.endtoend.looks import (
    barman_files,
    barman_streams_from,
    failover_handled,
    first_file,
    missing_across_the_switch,
    routes,
    slot,
    status,
)
from tests.lab import BASE, Client, Failed, Lab, wait_for
from tests.lab.contain import contain

LIMIT = 360.0

REPMGRD = (
    (r"\[WARNING\] unable to ping", "repmgrd: db1 does not answer"),
    (r"\[WARNING\] unable to reconnect to node .*after (\d+) attempts", "repmgrd: gives db1 up after {0} attempts"),
    (r"\[NOTICE\] this node is the only available candidate", "repmgrd: db2 will promote itself"),
    (r"DETAIL: server .* was successfully promoted", "repmgrd: db2 has been promoted"),
    (r"^\d\d:\d\d:\d\d [IE] (.*)", "  worker: {0}"),
)

SLOTS = "select slot_name, active, restart_lsn, wal_status from pg_replication_slots"

KEEP = """
The lab is open; leave the shell to end it. Try:
  on db2 psql -c 'select * from pg_replication_slots'
  on gateway repmgr-hooks status
  on gateway iptables-save -t nat
  on gateway:barman barman check main_backup
"""

ON = """#!/bin/sh
# on HOST[:USER] COMMAND ...: run a command on a host of the lab
host=${1%%:*} user=${1#*:}; shift
[ "$user" = "$host" ] && case $host in db*) user=postgres;; *) user=root;; esac
case $user in postgres) home=/var/lib/postgresql;; barman) home=/var/lib/barman;; *) home=/root;; esac
exec ip netns exec "$host" /mnt/enter "$host" "$user" "$home" "$@"
"""


class FailoverReport:
    """Prints lines with the seconds since the beginning, or since the fault."""

    def __init__(self) -> None:
        self.begun = time.time()

    def say(self, text: str) -> None:
        print(f"{time.time() - self.begun:6.1f} s  {text}", flush=True)


class Told:
    """What repmgrd and the worker write, as they write it."""

    def __init__(self) -> None:
        self._seen = {"repmgrd2": 0, "worker": 0}

    def read(self, lab: Lab) -> list[str]:
        """Return what is new."""
        new = []
        for log, seen in self._seen.items():
            lines = lab.gateway.log(log).splitlines()
            self._seen[log] = len(lines)
            new += lines[seen:]
        return new


def main() -> int:
    parser = argparse.ArgumentParser(prog="tests/demo")
    parser.add_argument("--unplug", action="store_true", help="pull the primary's cable instead of killing it")
    parser.add_argument("--keep", action="store_true", help="open a shell in the lab afterwards")
    arguments = parser.parse_args()
    contain([sys.executable, "-m", "tests.show", *sys.argv[1:]])
    lab = Lab()
    try:
        good = show(lab, arguments.unplug)
    except Failed as error:
        print(f"VERDICT: FAILED: {error}")
        good = False
    if arguments.keep:
        keep_open()
    return 0 if good else 1


def show(lab: Lab, unplug: bool) -> bool:
    story = FailoverReport()
    story.say("four hosts, each in its own network namespace: db1, db2, gateway (with Barman), app")
    lab.build()
    story.say("PostgreSQL runs: db1 is the primary, db2 its standby; the gateway's ports are closed")
    print(lab.gateway.hooks("reconcile").stdout, end="")
    lab.start_cron()
    lab.start_worker()
    lab.start_repmgrd()
    story.say("ports open, Barman streams; the worker waits for events, repmgrd watches both nodes")
    client = lab.start_client()
    story.say("the application writes every 100 ms through 10.0.0.20:54322")
    first = first_file(lab)
    logs = Told()
    logs.read(lab)
    time.sleep(2)

    story = FailoverReport()
    if unplug:
        story.say("FAULT: db1's network cable is pulled; nothing answers any more, not even with a reset")
        lab.unplug(lab.db1)
    else:
        story.say("FAULT: PostgreSQL on db1 is killed")
        lab.db1.pg_ctl("stop", "-m", "immediate")
    follow(lab, client, story, logs)
    return decision(lab, client, story.begun, first)


def follow(lab: Lab, client: Client, story: FailoverReport, logs: Told) -> None:
    """Tell what the logs say, as they say it, until the last event of the failover has been handled."""
    broken, back = False, False
    while time.time() < story.begun + LIMIT:
        for line in logs.read(lab):
            if text := in_plain_words(line):
                story.say(text)
        after = [write for write in client.writes() if write.ended > story.begun + 0.05]
        if not broken and (failed := next((write for write in after if write.row is None), None)):
            broken = True
            story.say(f"application: {failed.error[:60]}")
        if broken and not back and after[-1].row is not None:
            back = True
            story.say(f"application: writes again (row {after[-1].row})")
        if back and failover_handled(lab):
            return
        time.sleep(0.05)
    raise Failed(f"the failover was not over after {LIMIT:.0f} s")


def in_plain_words(line: str) -> str:
    for pattern, words in REPMGRD:
        if found := re.search(pattern, line):
            return words.format(*found.groups())
    return ""


def decision(lab: Lab, client: Client, fault: float, first: str) -> bool:
    with suppress(Failed):  # what has just been moved may still be looked at for the first time
        wait_for(lambda: all(looked_at(lab, client, first).values()), "all to be good", 20, every=0.5)
    findings = looked_at(lab, client, first)
    print("\nAfterwards\n" + lab.gateway.hooks("status").stdout)
    print(lab.db2.run("psql", "-Xc", SLOTS, user="postgres"), end="")
    print(lab.gateway.barman("check", "main_backup", check=False), end="")
    print("\n".join(line for line in lab.gateway.nat() if line.startswith(("-A repmgr_",))))
    committed = sum(write.row is not None for write in client.writes())
    print(f"\nrows committed: {committed}; Barman holds: {', '.join(sorted(barman_files(lab)))}\n")
    for text, true in findings.items():
        print(f"  {'ok  ' if true else 'FAIL'}  {text}")
    good = all(findings.values())
    print(f"\nVERDICT: {'OK' if good else 'FAILED'}: the application could not write for {client.outage(fault):.1f} s")
    return good


def looked_at(lab: Lab, client: Client, first: str) -> dict[str, bool]:
    """What has to be true after the failover, and whether it is."""
    missing = missing_across_the_switch(lab, lab.db2, first)
    committed = {write.row for write in client.writes() if write.row is not None}
    kept = {int(row) for row in lab.db2.sql("select id from work", "app").split()}
    return {
        "both ports lead to db2": set(routes(lab).values()) == {"10.0.0.12"},
        "Barman streams from db2, through its slot": barman_streams_from(lab.db2),
        "the slot on db2 holds its WAL": slot(lab.db2).endswith("|t|reserved"),
        "no WAL file is missing in Barman": not missing,
        "every row that the application was told is committed is there": committed <= kept,
        "repmgr-hooks status finds nothing wrong but the dead db1": wrong(lab) == [["silent", [1]]],
    }


def wrong(lab: Lab) -> list[object]:
    """All that ``status`` has to object: notes as reason and nodes, anything else as it is."""
    said = status(lab)
    notes = [[note["code"], note["nodes"]] for note in said["decision"]["notes"]]
    return notes + [said[key] for key in ("pending", "warnings", "paused", "failed", "waiting") if said[key]]


def keep_open() -> None:
    Path(BASE / "on").write_text(ON)
    Path(BASE / "on").chmod(0o755)
    print(KEEP, flush=True)
    subprocess.run(["bash", "--norc", "-i"], env={**os.environ, "PATH": f"{BASE}:{os.environ['PATH']}"}, check=False)


if __name__ == "__main__":
    sys.exit(main())
