"""One failover of one side, in a box of its own: ``python -m tests.bench.measure SIDE FAULT PHASE``.

PHASE is for how many seconds ``barman cron`` is not yet due when cron starts.

Builds a fresh lab, breaks db1, looks on from outside, and prints what it saw as JSON. Both sides get the same lab and
the same looks; only the hook, its rights, and how its ports were first opened differ.
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.lab import ADDRESSES, BASE, Failed, Host, Lab, wait_for
from tests.lab.contain import contain

HERE = Path(__file__).parent
BARMAN_HOME = "/var/lib/barman/main_backup"
SEGMENT = 16 * 1024 * 1024
SEGMENTS_A_LOG = 0x1_0000_0000 // SEGMENT
PROMOTING = ("standby_promote", "repmgrd_failover_promote")
STALL = 1.0
CAP_UNPLUGGED = 60.0
CAP_STOPPED = 300.0
CAP_WAL = 75.0  # one `barman cron` and a little more

CRON = "sleep {phase:.1f}; while :; do barman -q cron; sleep 60; done"
HOOK_LINE = re.compile(r"^event_notification_command='(.*)'$", re.MULTILINE)


@dataclass(frozen=True)
class Call:
    """One call of the hook: when it began, seconds since the fault, and how long repmgrd waited for it."""

    event: str
    begun: float
    took: float


@dataclass(frozen=True)
class Failover:
    """What one failover looked like; times in seconds, None where it was not seen before the cap."""

    side: str
    fault: str
    next_cron: float
    """How long after the fault Barman's cron was due, once a minute."""
    promotion: float | None
    port_open: float | None
    """Both since the fault."""
    event_late: float | None
    """From the promotion to repmgr's first event about it."""
    promotion_to_port: float | None
    second_closure: float | None
    outage: float | None
    later_stall: float
    """Seconds in which the client was held up again after its first write: gaps longer than STALL."""
    hooks: list[Call]
    held_up: float | None
    """How long the calls for PROMOTING took together."""
    missing_wal: list[str]
    segments_asked_for: int
    load: float
    """The machine's load, average of a minute, when db1 broke."""


# -- the two sides -----------------------------------------------------------------------------------------------------


def put_ours_to_work(lab: Lab) -> None:
    """The installation of config/, its ports opened by ``reconcile``."""
    time_the_hook(lab)
    lab.start_worker()
    result = lab.gateway.hooks("reconcile")
    if result.returncode != 0:
        raise Failed(f"reconcile: {result.returncode}\n{result.stdout}\n{result.stderr}")


def put_streaming_to_work(lab: Lab) -> None:
    """The same, but the app port opens as soon as Barman streams from the new primary."""
    open_right_behind(lab, "barman: {stream: true, min_stream_age: 0}", "barman: {stream: true}")
    put_ours_to_work(lab)


def put_reserved_to_work(lab: Lab) -> None:
    """The same, but the app port opens as soon as the slot holds the WAL."""
    open_right_behind(lab, "slot: {on: primary}", "slot: {on: primary}")
    put_ours_to_work(lab)


def open_right_behind(lab: Lab, action: str, instead: str) -> None:
    """Let the line that opens the app port stand right behind another one of the route, which is written anew."""
    place = "/etc/repmgr-hooks/config.yaml"
    text = lab.gateway.path(place).read_text()
    gate, line = "          - firewall: {open: app, fail_open_after: 120}\n", f"          - {action}\n"
    assert gate in text and line in text, f"{place} has no line {action!r}"
    lab.put(lab.gateway, place, text.replace(gate, "", 1).replace(line, f"          - {instead}\n{gate}", 1))


def put_article_to_work(lab: Lab) -> None:
    """The article's scripts and steps in the article's order, instead of ours."""
    gateway = lab.gateway
    for script in sorted((HERE / "article").glob("*.sh")):
        lab.put(gateway, f"/usr/local/bin/{script.name}", script.read_text(), 0o755)
    gateway.path("/etc/sudoers.d/repmgr-hooks").unlink()
    lab.put(gateway, "/etc/sudoers.d/repmgr", (HERE / "article/sudoers").read_text(), 0o440)
    time_the_hook(lab, "/usr/local/bin/repmgr_handler.sh %n %e")
    gateway.run("/usr/local/bin/repmgr_iptables_chains.sh")
    ports = ("/usr/local/bin/repmgr_iptables.sh", ADDRESSES["db1"], ADDRESSES["gateway"], "5432")
    gateway.run(*ports, "54321")
    gateway.run(*ports, "54322", "app")
    lab.put(gateway, "/usr/local/bin/repmgr_master", "1\n", owner="postgres")
    gateway.barman("receive-wal", "--create-slot", "main_backup")
    gateway.barman("cron")


def time_the_hook(lab: Lab, command: str | None = None) -> None:
    """Let repmgr call the hook (``command``, else the one that stands there) through the stop-watch."""
    lab.put(lab.gateway, "/usr/local/bin/timed", (HERE / "timed.sh").read_text(), 0o755)
    for node in ("db1", "db2"):
        place = f"/etc/repmgr/{node}.conf"
        text = lab.gateway.path(place).read_text()
        (there,) = HOOK_LINE.findall(text)
        line = f"event_notification_command='/usr/local/bin/timed %e {command or there}'"
        lab.put(lab.gateway, place, HOOK_LINE.sub(lambda _: line, text))  # noqa: B023 - used at once


SIDES = {
    "ours": put_ours_to_work,
    "streaming": put_streaming_to_work,
    "reserved": put_reserved_to_work,
    "article": put_article_to_work,
}


# -- one failover ------------------------------------------------------------------------------------------------------


def measure(side: str, fault: str, phase: float) -> Failover:
    """Build a lab for one side, break db1, and return what was seen."""
    lab = Lab()
    put_to_work(lab, side, phase)
    cron_due = time.time() + phase
    client = lab.start_client()
    archive_some_wal(lab)
    archived_before = barman_files(lab)
    start_watching(lab)
    time.sleep(2)
    load = os.getloadavg()[0]
    begun = time.time()
    if fault == "stopped":
        lab.db1.pg_ctl("stop", "-m", "immediate")
        wait_for(lambda: handled(lab), "the end of both hook calls", CAP_STOPPED)
        client.wait_for_write(begun + 1, CAP_STOPPED)
        time.sleep(3)
    else:
        lab.unplug(lab.db1)
        with suppress(Failed):
            client.wait_for_write(begun + 1, CAP_UNPLUGGED)
    seen = probes(lab)
    writes = [write.ended for write in client.writes() if write.row is not None]
    promoted = promotion(lab, begun)
    opened = first_opening(seen, begun)
    calls = finished_calls(lab, begun)
    wanted = wait_for_wal(lab, min(archived_before)) if fault == "stopped" else set()
    return Failover(
        side=side,
        fault=fault,
        next_cron=round((cron_due - begun) % 60, 1),
        promotion=since(begun, promoted),
        port_open=since(begun, opened),
        event_late=since(promoted, first_event(lab)),
        promotion_to_port=since(promoted, opened),
        second_closure=None if opened is None else round(closed_again(seen, opened), 3),
        outage=outage(writes, begun),
        later_stall=round(stalls(writes, begun), 3),
        hooks=calls,
        held_up=held_up(calls),
        missing_wal=sorted(wanted - barman_files(lab)),
        segments_asked_for=len(wanted),
        load=round(load, 2),
    )


def put_to_work(lab: Lab, side: str, phase: float) -> None:
    """Build the lab, and let one side, repmgrd and Barman's cron work in it."""
    lab.build()
    SIDES[side](lab)
    lab.start_repmgrd()
    lab.daemons["cron"] = lab.gateway.start("sh", "-c", CRON.format(phase=phase), user="barman", log="cron")


def archive_some_wal(lab: Lab) -> None:
    """Close a few segments, so that Barman's archive holds something of the old timeline."""
    for _ in range(3):
        lab.gateway.barman("switch-wal", "--force", "--archive", "--archive-timeout=30", "main_backup")
    wait_for(lambda: barman_files(lab), "a WAL file in Barman's archive")


def start_watching(lab: Lab) -> None:
    """Probe the app port from the application's host, and look on db2 for the end of recovery."""
    python = "/opt/repmgr-hooks/bin/python"
    prober, watcher = (HERE / "prober.py").read_text(), (HERE / "watcher.py").read_text()
    words = (python, "-c", prober, ADDRESSES["gateway"], "54322")
    lab.daemons["prober"] = lab.app.start(*words, user="postgres", log="prober")
    lab.daemons["watcher"] = lab.db2.start(python, "-c", watcher, user="postgres", log="watcher")
    wait_for(lambda: any(is_open for _, is_open in probes(lab)), "the prober to find the app port open", 10)


# -- what was seen -----------------------------------------------------------------------------------------------------


def since(begun: float | None, moment: float | None) -> float | None:
    return None if begun is None or moment is None else round(moment - begun, 3)


def promotion(lab: Lab, begun: float) -> float | None:
    """Return when db2 was first out of recovery. Raises Failed if that was before the fault."""
    text = lab.db2.log("watcher").strip()
    if text and float(text) < begun:
        raise Failed("db2 was out of recovery before the fault")
    return float(text) if text else None


def probes(lab: Lab) -> list[tuple[float, bool]]:
    """Return when each probe began, and whether the port was open."""
    lines = (line.split() for line in lab.app.log("prober").splitlines())
    return [(float(words[0]), words[1] == "open") for words in lines if len(words) == 2]


def first_opening(seen: list[tuple[float, bool]], begun: float) -> float | None:
    """Return when the port was first open again after it was first seen closed.

    >>> first_opening([(0.9, True), (1.1, True), (1.2, False), (1.3, True), (1.4, False), (1.5, True)], 1.0)
    1.3
    """
    closed = next((at for at, is_open in seen if at > begun and not is_open), None)
    return next((at for at, is_open in seen if closed is not None and at > closed and is_open), None)


def closed_again(seen: list[tuple[float, bool]], opened: float) -> float:
    """Return for how long the port was closed after ``opened``.

    >>> closed_again([(1.0, False), (2.0, True), (3.0, False), (3.5, False), (4.0, True), (5.0, False)], 2.0)
    1.0
    """
    after = [probe for probe in seen if probe[0] >= opened]
    pairs = zip(after, after[1:], strict=False)
    return sum(following - at for (at, is_open), (following, _) in pairs if not is_open)


def outage(writes: list[float], begun: float) -> float | None:
    """Return the seconds between the last write before the fault and the first one after it.

    >>> outage([8.0, 9.0, 12.5, 12.6], 9.0)
    3.5
    """
    resumed = next((moment for moment in writes if moment > begun + 1), None)
    return None if resumed is None else round(resumed - max(m for m in writes if m <= begun + 1), 3)


def stalls(writes: list[float], begun: float) -> float:
    """Return the seconds in gaps between writes that are longer than STALL, after the first write after the fault.

    >>> stalls([8.0, 12.5, 12.6, 14.6, 14.7], 9.0)
    2.0
    """
    after = [moment for moment in writes if moment > begun + 1]
    gaps = [following - moment for moment, following in zip(after, after[1:], strict=False)]
    return sum(gap for gap in gaps if gap > STALL)


def hook_calls(lab: Lab) -> list[list[str]]:
    """Return the lines of the stop-watch: begin or end, moment, process, event."""
    place = lab.gateway.path("/var/tmp/timed.log")
    return [line.split() for line in place.read_text().splitlines()] if place.exists() else []


def handled(lab: Lab) -> bool:
    """True once both hook calls of a promotion have ended."""
    return set(PROMOTING) <= {words[3] for words in hook_calls(lab) if words[0] == "end"}


def finished_calls(lab: Lab, fault: float) -> list[Call]:
    """Return the calls of the hook that began after the fault and have ended."""
    begun: dict[str, float] = {}
    calls = []
    for verb, moment, process, event, *_ in hook_calls(lab):
        if verb == "begin":
            begun[process] = float(moment)
        elif begun[process] > fault:
            calls.append(Call(event, round(begun[process] - fault, 3), round(float(moment) - begun[process], 3)))
    return calls


def first_event(lab: Lab) -> float | None:
    """Return when the hook was first called about the promotion."""
    return next((float(words[1]) for words in hook_calls(lab) if words[0] == "begin" and words[3] in PROMOTING), None)


def held_up(calls: list[Call]) -> float | None:
    """Return how long repmgrd waited in the two calls of a promotion; None if one of them has not ended."""
    durations = {call.event: call.took for call in calls}
    return round(sum(durations[name] for name in PROMOTING), 3) if set(PROMOTING) <= durations.keys() else None


# -- WAL ---------------------------------------------------------------------------------------------------------------


def barman_files(lab: Lab) -> set[str]:
    """Return the complete WAL files that Barman has, archived or just streamed."""
    home = lab.gateway.path(BARMAN_HOME)
    files = [*home.glob("wals/*/*"), *home.glob("streaming/*")]
    return {file.name for file in files if re.fullmatch(r"[0-9A-F]{24}", file.name)}


def wait_for_wal(lab: Lab, first: str) -> set[str]:
    """Give Barman time to fetch what it can still get, and return all that it should have."""
    wanted = wal_across_the_switch(first, lab.db2)
    with suppress(Failed):
        wait_for(lambda: wanted <= barman_files(lab), "Barman to have all WAL", CAP_WAL, every=0.5)
    return wanted


def wal_across_the_switch(first: str, db2: Host) -> set[str]:
    """Ask the new primary where it left the old timeline and where it is now."""
    history = db2.sql("select pg_read_file('pg_wal/00000002.history')")
    switchpoint = history.splitlines()[-1].split()[1]
    return wal_names(first, switchpoint, db2.sql("select pg_current_wal_lsn()"))


def wal_names(first: str, switchpoint: str, now: str) -> set[str]:
    """Return timeline 1 from ``first`` up to the segment before the switchpoint, and timeline 2 from the switchpoint to
    the last one that is closed.

    >>> sorted(wal_names("000000010000000000000003", "0/5000148", "0/7000000"))  # doctest: +NORMALIZE_WHITESPACE
    ['000000010000000000000003', '000000010000000000000004', '000000020000000000000005', '000000020000000000000006']
    """
    begin = int(first[8:16], 16) * SEGMENTS_A_LOG + int(first[16:], 16)
    old = {wal_name(1, number) for number in range(begin, segment(switchpoint))}
    return old | {wal_name(2, number) for number in range(segment(switchpoint), segment(now))}


def segment(lsn: str) -> int:
    """Return the number of the segment that holds a position."""
    high, low = (int(part, 16) for part in lsn.split("/"))
    return ((high << 32) + low) // SEGMENT


def wal_name(timeline: int, number: int) -> str:
    return f"{timeline:08X}{number // SEGMENTS_A_LOG:08X}{number % SEGMENTS_A_LOG:08X}"


# -- the program -------------------------------------------------------------------------------------------------------


def main() -> None:
    contain([sys.executable, "-m", "tests.bench.measure", *sys.argv[1:]])
    side, fault, phase = sys.argv[1:]
    try:
        print(json.dumps(asdict(measure(side, fault, float(phase)))))
    except BaseException:
        show_logs()
        raise


def show_logs() -> None:
    """Say on stderr what the daemons wrote last, for the one who has to find out."""
    for log in sorted(BASE.glob("*.log")):
        if log.stem not in ("app-client", "app-prober"):
            tail = log.read_text(errors="replace").splitlines()[-40:]
            print(f"--- {log.stem}", *tail, sep="\n", file=sys.stderr)


if __name__ == "__main__":
    main()
