"""A failover that could not happen is red within some 15 s, and green again by the way out that is printed."""

from __future__ import annotations

import json
import re
import shlex
import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.endtoend.looks import failover_handled, status, worker_log
from tests.endtoend.test_served import page_about, serve
from tests.lab import Lab, wait_for

WITHIN = 120.0
"""Seconds for what takes 15 (repmgrd_timeout, our look) to 25 (an alert is held back), on a machine with other work."""
DB2 = "/etc/repmgr/db2.conf"


def obstacles(lab: Lab) -> list[dict[str, Any]]:
    readiness = status(lab)["readiness"]
    return list(readiness["obstacles"]) if readiness else []


def codes(lab: Lab) -> set[str]:
    return {item["code"] for item in obstacles(lab)}


def red(lab: Lab, code: str) -> dict[str, Any]:
    """Wait until status says so, then until the service does; return the obstacle."""
    seen: list[dict[str, Any]] = []

    def alone() -> bool:
        seen[:] = obstacles(lab)
        return [item["code"] for item in seen] == [code]

    wait_for(alone, f"status to say {code}", WITHIN, every=1)
    (found,) = seen
    assert lab.gateway.hooks("status").returncode == 1
    assert 'repmgr_hooks_failover_possible{cluster="main"} 0' in lab.gateway.hooks("metrics").stdout
    wait_for(lambda: found["message"] in "".join(worker_log(lab)), "the service to say so", WITHIN, every=1)
    return found


def green(lab: Lab) -> None:
    wait_for(lambda: lab.gateway.hooks("status").returncode == 0, "a green status", WITHIN, every=1)
    wait_for(lambda: "in the desired state again" in since_it_was_red(lab), "the service to say so", WITHIN, every=1)


def since_it_was_red(lab: Lab) -> str:
    return "".join(worker_log(lab)).rpartition("no standby would be promoted")[2]


def end(lab: Lab, name: str) -> None:
    daemon = lab.daemons.pop(name)
    daemon.terminate()
    daemon.wait(90)


def typed(lab: Lab, hint: str) -> None:
    """Type the command of repmgr's that a hint names, as postgres."""
    (command,) = re.findall(r"as postgres: (repmgrd? -f [^;]*)", hint)
    lab.gateway.start(*shlex.split(command), user="postgres", log="typed").wait(90)


def test_repmgrd_has_ended_and_is_started(lab: Lab) -> None:
    serve(lab)
    for name in ("repmgrd1", "repmgrd2"):
        end(lab, name)
    found = red(lab, "silent")
    assert "no standby would be promoted: repmgrd of node 2 does not watch the primary" in found["message"]
    wait_for(lambda: page_about(lab, "failover"), "somebody to be told", WITHIN, every=0.5)
    (page,) = page_about(lab, "failover")
    assert (page["severity"], page["state"], page["hint"]) == ("critical", "open", found["hint"])
    typed(lab, found["hint"])
    green(lab)


def test_a_forgotten_pause(lab: Lab) -> None:
    lab.gateway.run("repmgr", "-f", DB2, "service", "pause", user="postgres")
    found = red(lab, "paused")
    typed(lab, found["hint"])
    green(lab)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda text: text.replace("failover=automatic", "failover=manual"), "manual"),
        (lambda text: re.sub("promote_command=.*", "", text), "no_command"),
        (lambda text: text + "event_notifications=node_rejoin,standby_promote\n", "refused"),
    ],
)
def test_a_repmgr_conf_with_which_nothing_is_promoted(lab: Lab, change: Callable[[str], str], code: str) -> None:
    file = lab.gateway.path(DB2)
    before = file.read_text()
    file.write_text(change(before))
    found = red(lab, code)
    assert DB2 in found["hint"]
    file.write_text(before)
    green(lab)


def test_priority_0_everywhere(lab: Lab) -> None:
    repmgr = ("repmgr", "-f", DB2, "standby", "register", "--force")
    for host in (lab.db2, lab.gateway):
        host.path(DB2).write_text(host.path(DB2).read_text() + "priority=0\n")
    lab.db2.run(*repmgr, user="postgres")
    found = red(lab, "priority")
    assert f"as postgres: {' '.join(repmgr)}" in found["hint"]
    for host in (lab.db2, lab.gateway):
        host.path(DB2).write_text(host.path(DB2).read_text().replace("priority=0", "priority=100"))
    lab.db2.run(*repmgr, user="postgres")
    green(lab)


def test_no_false_alarm_while_the_primary_is_restarted(lab: Lab) -> None:
    """For longer than repmgrd waits it is not away; and an alert is none before it has lasted.

    The files of another cluster with equal node ids and names, in which nothing would be promoted, are not ours.
    """
    theirs = lab.config("repmgr-db2.conf").replace("10.0.0.12", "10.9.0.12").replace("=automatic", "=manual")
    lab.put(lab.gateway, "/etc/repmgr/theirs.conf", theirs)
    for _ in range(2):
        lab.db1.pg_ctl("restart", "-m", "fast")
        end_of_watch = time.monotonic() + 8
        while time.monotonic() < end_of_watch:
            assert codes(lab) == set()
    assert not any("would be promoted" in line for line in worker_log(lab))


def test_a_stale_primary_is_not_told_to_register_as_one(lab: Lab) -> None:
    """`primary register --force` made it a primary of its own."""
    lab.db1.pg_ctl("stop", "-m", "immediate")
    wait_for(lambda: failover_handled(lab), "the end of the events")
    lab.db1.pg_ctl("start")
    found = json.loads(lab.gateway.hooks("check", "--json").stdout)
    hints = [item["hint"] for item in found if item["level"] != "OK"]
    assert not any("primary register" in hint for hint in hints)
    assert any("repmgr -f REPMGR_CONF node rejoin -d 'host=10.0.0.12" in hint for hint in hints)
