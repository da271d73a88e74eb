"""One planned change of the primary, in a box of its own: ``python -m tests.bench.planned SIDE``.

Builds a fresh lab, makes db2 the primary with one side's means, and prints as JSON what clients saw that write every
100 ms. ``repmgr``: ``repmgr standby switchover`` with the article's scripts, repmgrd paused by hand, clients through
the article's port and by libpq's list of hosts; ``ours``: ``repmgr-hooks switchover``, clients through the port and
through PgBouncer.
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field

from tests.bench.measure import (
    HERE,
    HOOK_LINE,
    archive_some_wal,
    promotion,
    put_article_to_work,
    show_logs,
    since,
)
from tests.endtoend.switchovers import opened, serving
from tests.lab import ADDRESSES, DATA, PYTHON, Client, Failed, Lab, three
from tests.lab.contain import contain
from tests.lab.pgbouncer import Pooler, use

CAP = 120.0
"""Seconds, after the command, for a client to write."""
STRAIGHT = f"host={ADDRESSES['db1']},{ADDRESSES['db2']} port=5432 target_session_attrs=read-write"
PATIENCE = 60
REPMGR = ("repmgr", "-f", "/etc/repmgr/db2.conf", "standby", "switchover")
STOPPING = "received fast shutdown request"
HELD = re.compile(r"clients were held for (\d+\.\d) s")


@dataclass(frozen=True)
class Seen:
    """What a client saw: the longest time without a write that ended well (None: none until the cap), what failed."""

    longest: float | None
    failed: int


@dataclass(frozen=True)
class Switchover:
    """What one switchover looked like; times in seconds."""

    side: str
    ok: bool
    took: float
    """The whole command."""
    repmgr: float | None
    """repmgr's own time, from the stop of the old primary to the promotion."""
    held: float | None
    ways: dict[str, Seen]
    parts: dict[str, float] = field(default_factory=dict)
    """Where the time went in which clients were held."""
    load: float = 0.0
    """The machine's load, average of a minute, before it began."""


def measure(side: str) -> Switchover:
    """Build a lab, change the primary, and return what was seen."""
    lab = Lab()
    ways = put_to_work(lab, side)
    lab.db1.sql("alter role app set synchronous_commit = local")
    clients = {way: lab.start_client(name=way, way=how, patience=PATIENCE) for way, how in ways.items()}
    archive_some_wal(lab)
    watcher = (HERE / "watcher.py").read_text()
    lab.daemons["watcher"] = lab.db2.start(PYTHON, "-c", watcher, user="postgres", log="watcher")
    time.sleep(2)
    load, begun = os.getloadavg()[0], time.time()
    command = lab.gateway.hooks("switchover") if side == "ours" else lab.db2.result(*REPMGR, user="postgres", limit=300)
    ended = time.time()
    seen = {way: saw(client, begun, ended) for way, client in clients.items()}
    held = HELD.search(command.stdout)
    stopped, promoted = moment(lab, STOPPING, begun), promotion(lab, begun)
    return Switchover(
        side,
        command.returncode == 0,
        round(ended - begun, 3),
        since(stopped, promoted),
        float(held[1]) if held else None,
        seen,
        parts(lab, stopped, promoted) if side == "ours" and stopped and promoted else {},
        round(load, 2),
    )


def put_to_work(lab: Lab, side: str) -> Mapping[str, str]:
    """Build the lab, let one side work in it, and return the ways to the primary."""
    opened(lab)
    three.start_ssh(lab)
    if side == "ours":
        pooler = Pooler(lab, lab.gateway)
        use(lab, pooler)
        serving(lab)
        return {"port": lab.app_port, "PgBouncer": pooler.way}
    put_article_to_work(lab)
    lab.start_cron()
    lab.start_repmgrd()
    for node in lab.databases:
        # repmgr calls the hook on the node that it runs on, and the article's scripts are the gateway's.
        place = f"/etc/repmgr/{node.name}.conf"
        gateway = f"ssh -o BatchMode=yes {lab.gateway.address} /usr/local/bin/repmgr_handler.sh %n %e"
        line = f"event_notification_command='{gateway}'"
        lab.put(node, place, HOOK_LINE.sub(lambda _, line=line: line, node.path(place).read_text()))  # type: ignore[misc]
        lab.append(node, f"{DATA}/pg_hba.conf", f"host app app {ADDRESSES['app']}/32 scram-sha-256\n")
        node.pg_ctl("reload")
        node.sql("select repmgr.repmgrd_pause(true)", "repmgr")
    return {"port": lab.app_port, "libpq": STRAIGHT}


def saw(client: Client, begun: float, ended: float) -> Seen:
    """Wait until a client writes again, and return what it has seen since the switchover began."""
    again = False
    with suppress(Failed):
        client.wait_for_write(ended + 1, CAP)
        again = True
    failed = sum(write.row is None for write in client.writes() if write.ended > begun)
    return Seen(client.longest_outage(begun - 1) if again else None, failed)


def moment(lab: Lab, text: str, after: float) -> float | None:
    """Return when db1's log has said something last, if that was after a moment."""
    lines = [line for line in lab.db1.path(f"{DATA}/server.log").read_text().splitlines() if text in line]
    if not lines:
        return None
    at = " ".join(lines[-1].split()[:3])
    found = float(lab.db2.sql(f"select extract(epoch from timestamptz '{at}')"))
    return found if found > after else None


def parts(lab: Lab, stopped: float, promoted: float) -> dict[str, float]:
    """Return where the time went in which clients were held, from the journal."""
    runs = json.loads(lab.gateway.hooks("history", "--json").stdout)
    steps = [step for run in runs for step in run["steps"]]
    (hold,) = (step for step in steps if step["kind"] == "switchover_hold")
    held_at = hold["started"] + hold["duration"]
    found = {
        "to hold them: record, PAUSE, rule": hold["duration"],
        "repmgr goes on, by ssh, to the stop": stopped - held_at,
        "repmgr: stop to promotion": promoted - stopped,
    }
    before = promoted
    for step in sorted((step for step in steps if step["started"] > promoted), key=lambda step: step["started"]):
        if step["kind"].startswith(("switchover", "hold")):
            continue
        what = f"{step['kind']} {step['target']}"
        found[f"then, until {what}"] = step["started"] - before
        found[what] = step["duration"]
        before = step["started"] + step["duration"]
        if what == "resume app":
            break
    return {what: round(seconds, 3) for what, seconds in found.items()}


def main() -> None:
    contain([sys.executable, "-m", "tests.bench.planned", *sys.argv[1:]])
    (side,) = sys.argv[1:]
    try:
        print(json.dumps(asdict(measure(side))))
    except BaseException:
        show_logs()
        raise


if __name__ == "__main__":
    main()
