"""A healthy cluster is green however often it is looked at, and what is done to it on purpose raises no alert."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from tests.endtoend.looks import follows, led_to, nothing_missing
from tests.endtoend.test_alive import end_worker
from tests.endtoend.test_served import PAGER, pages
from tests.lab import CONFIG_FILE, Lab, three, wait_for

LOOKED = "/var/lib/repmgr-hooks/cluster-main.looked"
LOOKS = 100
SETTLED = 30.0
"""Seconds: an alert is held back for 15 s, and a failover that is not possible is seen after 10 s."""


@pytest.fixture
def watched(lab: Lab) -> Lab:
    """The service looks every second, probes as often as it may, and pages a program; the nodes have ssh."""
    three.start_ssh(lab)
    lab.put(lab.gateway, "/usr/local/bin/page", PAGER, 0o755)
    config = lab.gateway.path(CONFIG_FILE)
    text = config.read_text().replace("\nclusters:\n", "\nalerts:\n  - {exec: [/usr/local/bin/page]}\nclusters:\n")
    text = text.replace("monitor_interval: 5\n", "monitor_interval: 1\n").replace("interval: 30}", "interval: 2}")
    config.write_text(text)
    end_worker(lab)
    lab.start_worker()
    wait_for(lambda: lab.gateway.hooks("status").returncode == 0, "a green status", every=1)
    return lab


def looks_of_the_service(lab: Lab, number: int, meanwhile: Callable[[], None]) -> None:
    """Wait until the service has looked so often again."""
    path = lab.gateway.path(LOOKED)
    seen, end = {path.stat().st_mtime_ns}, time.monotonic() + 10 * number
    while len(seen) <= number:
        assert time.monotonic() < end, f"{len(seen) - 1} looks of the service"
        seen.add(path.stat().st_mtime_ns)
        meanwhile()
        time.sleep(0.1)


def test_a_hundred_looks_a_switchover_a_restart_and_a_firewall_reload(watched: Lab) -> None:
    lab, asked = watched, [time.monotonic()]

    def green() -> None:
        """Ask now and then, for a look of ours takes seconds."""
        if time.monotonic() > asked[-1] + 10:
            shown = lab.gateway.hooks("status")
            assert shown.returncode == 0, shown.stdout
            asked.append(time.monotonic())

    looks_of_the_service(lab, LOOKS, green)
    assert len(asked) > 5
    shown = lab.gateway.hooks("check")
    assert "\n0 FAIL, " in shown.stdout, shown.stdout
    assert pages(lab) == []

    lab.gateway.wipe_nat()
    wait_for(lambda: led_to(lab, lab.db1) and nothing_missing(lab), "the rules to be there again")
    quiet(lab, "a firewall reload")

    lab.db1.pg_ctl("restart", "-m", "fast")
    quiet(lab, "a restart of the primary")

    lab.db2.run("repmgr", "-f", "/etc/repmgr/db2.conf", "standby", "switchover", user="postgres", limit=300)
    wait_for(lambda: led_to(lab, lab.db2) and follows(lab.db1, lab.db2), "the switchover")
    quiet(lab, "a switchover")

    lab.db2.sql("set synchronous_commit = local; alter role app connection limit 0")
    wait_for(lambda: pages(lab), "an alert that is true", every=1)


def quiet(lab: Lab, what: str) -> None:
    """Nobody was told anything by the time that all is green again, and not afterwards."""
    wait_for(lambda: lab.gateway.hooks("status").returncode == 0, f"a green status after {what}", 90, every=1)
    end = time.monotonic() + SETTLED
    looks_of_the_service(lab, int(SETTLED), lambda: None)
    time.sleep(max(0.0, end - time.monotonic()))
    shown = lab.gateway.hooks("status")
    assert shown.returncode == 0, shown.stdout
    assert pages(lab) == [], what
