"""Programs and messages are given for their event at once, whatever the state of the cluster."""

from __future__ import annotations

import json
from typing import Any

from tests.endtoend.looks import routes, runs
from tests.endtoend.test_alive import end_worker
from tests.lab import CONFIG_FILE, Lab, wait_for

PAGER = """#!/bin/sh
# Writes down what it is given; hangs for as long as it is told to.
cat >>/tmp/paged
while [ -e /tmp/hang ]; do sleep 0.2; done
"""
ROUTE = """
      - on: [repmgrd_promote_error, standby_failure, standby_promote, repmgrd_failover_promote, standby_split]
        do:
          - command: {run: [/usr/local/bin/pager], timeout: 60}
          - command: {run: [/usr/local/bin/pager, reported], timeout: 60}
            when: {success: false}
"""


def paged(lab: Lab) -> list[dict[str, Any]]:
    path = lab.gateway.path("/tmp/paged")
    return [json.loads(line) for line in path.read_text().split("\n")[:-1]] if path.exists() else []


def with_pager(lab: Lab) -> None:
    lab.put(lab.gateway, "/usr/local/bin/pager", PAGER, 0o755)
    config = lab.gateway.path(CONFIG_FILE)
    config.write_text(config.read_text().replace("\n    routes:\n", f"\n    routes:\n{ROUTE}", 1))
    end_worker(lab)
    lab.start_worker()


def test_whatever_the_state_somebody_is_paged(lab: Lab) -> None:
    """A promotion that fails while there is no primary; one that the cluster denies; an event of a newer repmgr."""
    with_pager(lab)
    hook = ("event", "--cluster", "main")
    assert lab.gateway.hooks(*hook, "2", "standby_promote", "0", user="postgres").returncode == 0
    wait_for(lambda: len(paged(lab)) == 2, "both pages")
    assert all(
        (page["contradicts"], page["primary"], page["event"]["success"]) == (True, 1, False) for page in paged(lab)
    )
    told = "standby_promote of node 2, reported as failed, contradicts the cluster: the primary is node 1"
    wait_for(lambda: told in lab.gateway.hooks("history").stdout, "history to say so", every=0.5)

    assert lab.gateway.hooks(*hook, "2", "standby_split", user="postgres").returncode == 0
    wait_for(lambda: len(paged(lab)) == 3, "the page for an event that we do not know")
    new = "standby_split of node 2, which this version does not know"
    wait_for(lambda: new in lab.gateway.hooks("history").stdout, "history to say so", every=0.5)
    wait_for(lambda: runs(lab)[-1]["ok"], "the end of the run", every=0.5)

    for number in (1, 2):
        lab.daemons.pop(f"repmgrd{number}").kill()
    lab.db1.pg_ctl("stop", "-m", "immediate")
    assert lab.gateway.hooks(*hook, "2", "repmgrd_promote_error", "1", user="postgres").returncode == 0
    wait_for(lambda: len(paged(lab)) == 4, "the page while no primary is known")
    page = paged(lab)[-1]
    assert (page["primary"], page["old_primary"], page["old_primary_host"]) == (None, 1, "10.0.0.11")


def test_a_program_that_hangs_is_in_nobodys_way(lab: Lab) -> None:
    with_pager(lab)
    lab.put(lab.gateway, "/tmp/hang", "")
    lab.db1.pg_ctl("stop", "-m", "immediate")
    wait_for(lambda: set(routes(lab).values()) == {"10.0.0.12"} and len(routes(lab)) == 2, "both ports")
    wait_for(lambda: paged(lab), "the page")
    assert paged(lab)[0]["old_primary"] == 1
    lab.gateway.path("/tmp/hang").unlink()
    wait_for(lambda: runs(lab)[-1]["ended"], "the end of the run")


def test_the_app_port_is_closed_while_no_primary_is_known(lab: Lab) -> None:
    config = lab.gateway.path(CONFIG_FILE)
    setting = "    unknown: {close: [app], after: 5}\n"
    config.write_text(
        config.read_text().replace("    promotion_timeout: 30\n", f"    promotion_timeout: 30\n{setting}")
    )
    end_worker(lab)
    lab.start_worker()
    for number in (1, 2):
        lab.daemons.pop(f"repmgrd{number}").kill()
    lab.db1.pg_ctl("stop", "-m", "immediate")
    wait_for(lambda: routes(lab) == {54321: "10.0.0.11"}, "the app port to be closed")
    lab.db1.pg_ctl("start")
    wait_for(lambda: routes(lab) == {54321: "10.0.0.11", 54322: "10.0.0.11"}, "the app port to be open again", 60)
