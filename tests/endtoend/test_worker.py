"""The service with its real user, the spool, the journal: no event is lost, and repmgrd is never held up."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from tests.endtoend.looks import barman_streams_from, routes, slot
from tests.endtoend.test_gateway import quicken
from tests.lab import REPOSITORY, Lab, must, wait_for

OPEN = {54321: "10.0.0.11", 54322: "10.0.0.11"}
STATE = "/var/lib/repmgr-hooks"
CONFIG = "/etc/repmgr-hooks/config.yaml"


@pytest.fixture
def quiet_lab(built_lab: Lab) -> Lab:
    """The service does what events ask for, and does not look around by itself."""
    config = built_lab.gateway.path(CONFIG)
    config.write_text(config.read_text().replace("monitor_interval: 5", "monitor_interval: 0"))
    return built_lab


def hand_in(lab: Lab, node: int, name: str) -> subprocess.CompletedProcess[str]:
    result = lab.gateway.hooks("event", "--cluster", "main", str(node), name, user="postgres")
    assert result.returncode == 0, result.stderr
    return result


@contextmanager
def held_before_the_stream(lab: Lab) -> Iterator[None]:
    """A run gets as far as Barman's stream, and no further until this is over: the app port is behind it."""
    barman, place = lab.gateway.path("/usr/local/bin/barman"), lab.gateway.path("/tmp/hold")
    wait = 'case "$*" in *receive-wal*) while [ -e /tmp/hold ]; do sleep 0.1; done;; esac'
    lab.put(lab.gateway, "/usr/local/bin/barman", f'#!/bin/sh\n{wait}\nexec /usr/bin/barman "$@"\n', 0o755)
    place.touch()
    try:
        yield
    finally:
        place.unlink()
        barman.unlink()


@contextmanager
def in_the_middle_of_a_run(lab: Lab) -> Iterator[None]:
    """A service has Barman's port and slot right, and gets no further until this is over."""
    lab.start_worker()
    with held_before_the_stream(lab):
        hand_in(lab, 1, "primary_register")
        wait_for(lambda: "create slot barman" in lab.gateway.log("worker"), "the middle of the run")
        yield


def runs(lab: Lab) -> list[dict[str, object]]:
    return json.loads(lab.gateway.hooks("history", "--json", "-n", "10000").stdout)


def handled(lab: Lab) -> bool:
    """True when every event that was handed in has been covered by a run that ended."""
    waiting = lab.gateway.run("sh", "-c", f"ls {STATE}/spool | grep -vc wake", check=False).strip()
    done = runs(lab)
    return waiting == "0" and bool(done) and all(run["ended"] for run in done)


def test_event_is_handled_by_the_service(quiet_lab: Lab) -> None:
    lab = quiet_lab
    lab.start_worker()
    hand_in(lab, 1, "primary_register")
    wait_for(lambda: handled(lab), "the run")
    assert routes(lab) == OPEN
    assert barman_streams_from(lab.db1)
    (run,) = runs(lab)
    assert run["ok"] is True
    assert [event["name"] for event in run["events"]] == ["primary_register"]


def test_failover_without_a_service(quiet_lab: Lab) -> None:
    """Each event starts a run of its own, as root through sudo."""
    lab = quiet_lab
    assert lab.gateway.hooks("reconcile").returncode == 0
    lab.start_repmgrd()
    client = lab.start_client()
    lab.db1.pg_ctl("stop", "-m", "immediate")
    client.wait_for_write(time.time())
    wait_for(lambda: handled(lab), "the runs")
    assert routes(lab) == {54321: "10.0.0.12", 54322: "10.0.0.12"}
    assert barman_streams_from(lab.db2)


def test_burst_of_events_from_many_processes(quiet_lab: Lab) -> None:
    lab = quiet_lab
    lab.start_worker()
    lab.gateway.run("pkill", "-STOP", "-f", "repmgr-hooks worker")
    with ThreadPoolExecutor(40) as pool:
        list(pool.map(lambda number: hand_in(lab, number % 2 + 1, "standby_follow"), range(200)))
    hand_in(lab, 1, "primary_register")
    lab.gateway.run("pkill", "-CONT", "-f", "repmgr-hooks worker")
    wait_for(lambda: sum(len(run["events"]) for run in runs(lab)) == 201, "each event to have its run", every=0.5)
    wait_for(lambda: handled(lab) and routes(lab) == OPEN, "the runs")
    assert len(runs(lab)) <= 3
    assert routes(lab) == OPEN


def test_worker_killed_in_mid_run(quiet_lab: Lab) -> None:
    lab = quiet_lab
    with in_the_middle_of_a_run(lab):
        kill_worker(lab, signal.SIGKILL)
        lab.gateway.run("pkill", "-KILL", "-f", "/usr/local/bin/barman", check=False)
        assert routes(lab) == {54321: "10.0.0.11"}
    lab.start_worker()
    wait_for(lambda: handled(lab) and routes(lab) == OPEN, "the run to be taken up again")
    assert [(run["ok"], run["message"] == "cut off") for run in runs(lab)] == [(False, True), (True, False)]


def kill_worker(lab: Lab, how: signal.Signals) -> int:
    """End the service; its FIFO stays behind when it is killed, as on a real machine."""
    daemon = lab.daemons.pop("worker")
    daemon.send_signal(how)
    return daemon.wait(160)


def test_end_and_second_worker(quiet_lab: Lab) -> None:
    lab = quiet_lab
    lab.start_worker()
    first = lab.daemons.pop("worker")
    with held_before_the_stream(lab):
        hand_in(lab, 1, "primary_register")
        wait_for(lambda: "route port barman" in lab.gateway.log("worker"), "the run")
        lab.gateway.start("/usr/local/bin/repmgr-hooks", "worker", user="service", log="second")
        wait_for(lambda: "another worker is running" in lab.gateway.log("second"), "the second to wait for the first")
        first.send_signal(signal.SIGTERM)
    assert first.wait(160) == 0
    wait_for(lambda: "route port app" in lab.gateway.log("second"), "the rest of the run")
    wait_for(lambda: handled(lab) and routes(lab) == OPEN, "its end")


def test_configuration_read_again(quiet_lab: Lab) -> None:
    lab = quiet_lab
    lab.start_worker()
    config = lab.gateway.path(CONFIG)
    good = config.read_text()
    config.write_text(good.replace("app: 54322", "app: 99999"))
    lab.daemons["worker"].send_signal(signal.SIGHUP)
    wait_for(lambda: "the old one stays in force" in lab.gateway.log("worker"), "the complaint")
    config.unlink()
    hand_in(lab, 1, "primary_register")
    wait_for(lambda: routes(lab) == OPEN, "the run with the old configuration")
    client = lab.start_client()
    lab.put(lab.gateway, CONFIG, good.replace("app: 54322", "app: 54323"))
    lab.daemons["worker"].send_signal(signal.SIGHUP)
    wait_for(lambda: "has been read again" in lab.gateway.log("worker"), "the new configuration")
    hand_in(lab, 1, "primary_register")
    wait_for(lambda: routes(lab) == {54321: "10.0.0.11", 54323: "10.0.0.11"}, "the run with the new one")
    # After the next failover nobody would know that he writes on a stale primary.
    wait_for(lambda: client.writes()[-1].row is None, "who came through the port that is no more to be cut")
    client.stop()


def test_a_pause_in_the_middle_of_a_run_leaves_the_port_closed(quiet_lab: Lab) -> None:
    """A DBA wants to look around before clients get in."""
    lab = quiet_lab
    with in_the_middle_of_a_run(lab):
        said = lab.gateway.hooks("pause", "--reason", "hands off").stdout
    assert said == (
        "main: PAUSED until it is resumed: events are stored, nothing is done"
        " after the step that the service is taking now\n"
    )
    wait_for(lambda: "stopped before the next step" in lab.gateway.log("worker"), "the run to end")
    assert (routes(lab), runs(lab)[-1]["message"]) == ({54321: "10.0.0.11"}, "cut off")
    lab.gateway.run("iptables-restore", stdin="*nat\nCOMMIT\n")
    assert lab.gateway.hooks("resume").returncode == 0
    wait_for(lambda: handled(lab) and routes(lab) == OPEN, "all to be done")


def test_spool_that_cannot_be_written(quiet_lab: Lab) -> None:
    lab = quiet_lab
    lab.gateway.path(f"{STATE}/spool").chmod(0o755)
    result = hand_in(lab, 1, "primary_register")
    assert "the event cannot be stored" in result.stderr
    assert "Permission denied" in result.stderr
    assert routes(lab) == OPEN


def test_journal_that_is_broken(quiet_lab: Lab) -> None:
    lab = quiet_lab
    lab.put(lab.gateway, f"{STATE}/journal.db", "this is no database" * 1000, owner="barman")
    lab.start_worker()
    wait_for(lambda: "the journal is broken" in lab.gateway.log("worker"), "the service to say so")
    hand_in(lab, 1, "primary_register")
    wait_for(lambda: routes(lab) == OPEN, "the run")
    assert "journal.db.broken-" in lab.gateway.run("ls", STATE)


def test_full_disk_does_not_stop_a_failover(quiet_lab: Lab) -> None:
    lab = quiet_lab
    state = str(lab.gateway.path(STATE))
    must("mount", "-t", "tmpfs", "-o", "size=512k,mode=0755", "tmpfs", state)
    try:
        lab.gateway.run("systemd-tmpfiles", "--create", "/etc/tmpfiles.d/repmgr-hooks.conf")
        lab.start_worker()
        lab.gateway.run("sh", "-c", f"cat /dev/zero > {STATE}/fill", check=False)
        result = hand_in(lab, 1, "primary_register")
        assert "the event cannot be stored ([Errno 28] No space left on device" in result.stderr
        assert routes(lab) == OPEN
    finally:
        must("umount", "-l", state)


def test_paused(quiet_lab: Lab) -> None:
    lab = quiet_lab
    lab.start_passive_repmgrd()
    lab.start_worker()
    assert lab.gateway.hooks("pause", "--for", "30m", "--reason", "upgrade of db2").returncode == 0
    hand_in(lab, 1, "primary_register")
    status = lab.gateway.hooks("status")
    assert status.returncode == 1
    assert re.search(r"PAUSED until \d\d:\d\d:\d\d \(upgrade of db2\)", status.stdout)
    wait_for(lambda: "1 event(s) wait" in lab.gateway.hooks("status").stdout, "the event to be stored")
    assert routes(lab) == {}
    assert lab.gateway.hooks("resume").returncode == 0
    wait_for(lambda: handled(lab) and routes(lab) == OPEN, "the event to be handled")
    wait_for(lambda: lab.gateway.hooks("status").returncode == 0, "a good status", every=0.5)


def test_failed_run_is_tried_again(quiet_lab: Lab) -> None:
    lab = quiet_lab
    quicken(lab, fail_open_after=10)
    config = lab.gateway.path(CONFIG)
    config.write_text(config.read_text().replace("{initial_delay: 5,", "{initial_delay: 1,"))
    lab.put(lab.gateway, "/usr/local/bin/barman", "#!/bin/sh\nexit 7\n", 0o755)
    lab.start_worker()
    hand_in(lab, 1, "primary_register")
    wait_for(lambda: routes(lab) == OPEN, "the port, opened by its limit")
    wait_for(lambda: [run for run in runs(lab) if run["attempt"] == 2], "the second attempt")
    tried_again = "FAILED, will be tried again"
    wait_for(lambda: tried_again in lab.gateway.hooks("status").stdout, "status to say so between two attempts")
    lab.gateway.path("/usr/local/bin/barman").unlink()
    wait_for(lambda: runs(lab)[-1]["ok"], "the attempt that works")
    assert barman_streams_from(lab.db1)
    assert slot(lab.db1) == "t|t|reserved"
    assert lab.gateway.hooks("history", "--failed").stdout.count("exit code 7") >= 2


def test_who_may_do_what(quiet_lab: Lab) -> None:
    lab = quiet_lab
    assert lab.gateway.hooks("reconcile").returncode == 0
    for user, words in (
        ("postgres", ("iptables-restore", "--noflush")),
        ("barman", ("iptables-restore", "--noflush")),
        ("postgres", ("sh", "-c", f"echo >> {STATE}/journal.db")),
        ("postgres", ("sh", "-c", f"echo >> {CONFIG}")),
        ("postgres", ("sh", "-c", "cat /etc/repmgr-hooks/pgpass")),
    ):
        assert lab.gateway.result(*words, user=user, stdin="*nat\nCOMMIT\n").returncode != 0, words
    # root has made the journal and the locks by hand; the service can go on with them
    lab.start_worker()
    hand_in(lab, 1, "primary_register")
    wait_for(lambda: handled(lab) and len(runs(lab)) == 2, "the run of the service")


def test_configuration_that_others_may_write_is_refused(quiet_lab: Lab) -> None:
    lab = quiet_lab
    lab.gateway.path(CONFIG).chmod(0o664)
    result = lab.gateway.hooks("reconcile")
    assert result.returncode == 2
    assert f"{CONFIG} can be written by others\nHINT: chmod go-w {CONFIG}" in result.stderr
    assert routes(lab) == {}


def test_exposure_of_the_unit(quiet_lab: Lab) -> None:
    lab = quiet_lab
    unit = (REPOSITORY / "systemd/repmgr-hooks.service").read_text()
    lab.put(lab.gateway, "/etc/systemd/system/repmgr-hooks.service", unit)
    words = ("systemd-analyze", "security", "--offline=true", "--no-pager", "repmgr-hooks.service")
    report = lab.gateway.result(*words)
    found = re.search(r"exposure level for repmgr-hooks.service: ([\d.]+)", report.stdout)
    assert found, report.stdout + report.stderr
    print(report.stdout.splitlines()[-1])
    assert float(found[1]) <= 2.5


def test_barman_receives_again_after_a_restart_before_the_next_look(built_lab: Lab) -> None:
    """With commits that wait for Barman nobody writes until then; no repmgrd reports a restart that is over at once."""
    lab = built_lab
    assert lab.gateway.hooks("reconcile").returncode == 0
    config = lab.gateway.path(CONFIG)
    config.write_text(config.read_text().replace("monitor_interval: 5\n", "monitor_interval: 3600\n"))
    lab.start_worker()
    wait_for(lambda: barman_streams_from(lab.db1), "the stream")
    time.sleep(1)  # for the first look
    lab.db1.pg_ctl("restart", "-m", "fast")
    wait_for(lambda: barman_streams_from(lab.db1), "the stream to be there again")
    causes = {run["cause"] for run in runs(lab)}
    assert causes <= {"reconcile", "drift", "retry"}, "no event"
