"""The service tries as a client: a healthy cluster raises no alarm whatever is done to it, and a fault does."""

from __future__ import annotations

import json
import signal
import time

from tests.endtoend.looks import led_to, nothing_missing, status
from tests.endtoend.test_check import CONFIG
from tests.endtoend.test_worker import kill_worker
from tests.lab import Lab, three, wait_for
from tests.lab.three import rejoin

PAGE = "/var/lib/barman/pages"
PAGER = f"#!/bin/sh\nline=$(tr -d '\\n')\nprintf '%s\\n' \"$line\" >> {PAGE}\n"
"""Two at once write each a line of its own."""


def pages(lab: Lab) -> list[dict[str, str]]:
    """What somebody was told, the oldest first; whole lines alone."""
    path = lab.gateway.path(PAGE)
    return [json.loads(line) for line in path.read_text().split("\n")[:-1]] if path.exists() else []


def page_about(lab: Lab, condition: str) -> list[dict[str, str]]:
    return [page for page in pages(lab) if page["condition"] == condition]


def serve(lab: Lab) -> None:
    """Start the service again, with a program that is told, and probes every few seconds."""
    lab.put(lab.gateway, "/usr/local/bin/page", PAGER, 0o755)
    config = lab.gateway.path(CONFIG)
    text = config.read_text().replace("\nclusters:\n", "\nalerts:\n  - {exec: [/usr/local/bin/page]}\nclusters:\n")
    config.write_text(text.replace("interval: 30}", "interval: 3}"))
    assert kill_worker(lab, signal.SIGTERM) == 0
    lab.start_worker()


def test_no_false_alarm_and_then_a_true_one(lab: Lab) -> None:
    serve(lab)
    wait_for(lambda: status(lab)["healthy"], "a good status")
    for _ in range(25):
        assert status(lab)["healthy"]
    lab.db1.pg_ctl("restart", "-m", "fast")
    wait_for(lambda: status(lab)["healthy"], "a good status after a restart")
    lab.gateway.wipe_nat()
    wait_for(lambda: led_to(lab, lab.db1) and status(lab)["healthy"], "the service to mend the rules")

    three.start_ssh(lab)
    lab.db2.run("repmgr", "-f", "/etc/repmgr/db2.conf", "standby", "switchover", user="postgres", limit=300)
    wait_for(lambda: led_to(lab, lab.db2) and status(lab)["healthy"], "a good status after a switchover")

    lab.db2.pg_ctl("stop", "-m", "immediate")
    wait_for(lambda: led_to(lab, lab.db1) and nothing_missing(lab), "the failover")
    wait_for(lambda: lab.psql_app("insert into work default values").returncode == 0, "a client to write")
    rejoin(lab.db2, lab.db1)
    wait_for(lambda: status(lab)["healthy"], "a good status after the failover")
    time.sleep(20)
    assert page_about(lab, "client") == [], "a port that was closed in a failover, or a primary that was restarted"
    assert page_about(lab, "failover") == [], "a primary that was restarted, a switchover, or a node that came back"

    report = json.loads(lab.gateway.hooks("history", "--failover", "last", "--json").stdout)
    begun, ended = report["outages"]["port app"]
    assert -30 < begun < ended
    assert 0 <= ended - report["ports"]["app"] < 60, "the first client after the port was opened"
    words = lab.gateway.hooks("history", "--failover", "last").stdout
    assert "for a client of port app: from the first that could not write" in words
    assert "port app: a client writes on node 1" in words

    lab.db1.sql("set synchronous_commit = local; alter role app connection limit 0")
    wait_for(lambda: page_about(lab, "client"), "somebody to be told")
    (page,) = page_about(lab, "client")
    assert page["severity"] == "critical"
    assert 'too many connections for role "app"' in page["summary"]
    assert "alter role app connection limit -1" in page["hint"]
    lab.db1.sql("alter role app connection limit -1")
    wait_for(lambda: status(lab)["healthy"] and nothing_missing(lab), "a good status again")
