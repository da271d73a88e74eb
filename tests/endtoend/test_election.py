"""repmgr's own election, on three nodes: a failover that it would not make is red, and the printed way out helps."""

from __future__ import annotations

import re
import time

from tests.endtoend.looks import led_to
from tests.endtoend.test_ready import codes, end, obstacles, typed
from tests.lab import Host, Lab, wait_for

SETTLED = 60.0


def set_in_conf(lab: Lab, host: Host, name: str, value: object) -> str:
    """Set a parameter of a node's repmgr.conf, on the node and on the gateway."""
    conf = f"/etc/repmgr/{host.name}.conf"
    for place in (host, lab.gateway):
        kept = re.sub(rf"(?m)^{name}=.*\n", "", place.path(conf).read_text())
        place.path(conf).write_text(f"{kept}{name}={value}\n")
    return conf


def register(lab: Lab, host: Host, name: str, value: object) -> None:
    conf = set_in_conf(lab, host, name, value)
    host.run("repmgr", "-f", conf, "standby", "register", "--force", user="postgres")


def red(lab: Lab, *wanted: str) -> dict[str, str]:
    """Wait until status says so, and return what it says of the first."""
    wait_for(lambda: codes(lab) == set(wanted), f"status to say {wanted}", SETTLED, every=1)
    assert lab.gateway.hooks("status").returncode == 1
    assert "failover: NOT POSSIBLE" in lab.gateway.hooks("status").stdout
    found: dict[str, str] = next(item for item in obstacles(lab) if item["code"] == wanted[0])
    assert found["message"].startswith("no standby would be promoted")
    return found


def possible(lab: Lab, *nodes: int) -> None:
    said = "failover: repmgr would promote " + " or ".join(f"node {node}" for node in nodes) + "\n"
    wait_for(lambda: said in lab.gateway.hooks("status").stdout, said, SETTLED, every=1)
    assert not obstacles(lab)


def nobody_is_promoted(lab: Lab, *hosts: Host) -> None:
    """Not within some seconds more than a promotion takes here."""
    time.sleep(15)
    assert [host.sql("select pg_is_in_recovery()") for host in hosts] == ["t"] * len(hosts)


def fails_over_to(lab: Lab, host: Host) -> None:
    lab.db1.pg_ctl("stop", "-m", "immediate")
    wait_for(lambda: led_to(lab, host), "the failover", 120)


def test_a_standby_down_leaves_no_majority(three: Lab) -> None:
    """Its host is down, so its repmgrd could not mark it as inactive; the other counts itself as one of two."""
    lab = three
    lab.daemons["repmgrd3"].kill()
    lab.db3.pg_ctl("stop", "-m", "immediate")
    found = red(lab, "majority")
    lab.db1.pg_ctl("stop", "-m", "immediate")
    nobody_is_promoted(lab, lab.db2)
    lab.db1.pg_ctl("start")
    red(lab, "majority")
    assert "standby unregister --node-id=3" in found["hint"]
    typed(lab, found["hint"])
    possible(lab, 2)
    fails_over_to(lab, lab.db2)


def test_a_manual_standby_that_would_win(three: Lab) -> None:
    """The one that would be promoted loses to it, and waits for it."""
    lab = three
    register(lab, lab.db3, "priority", 100)
    possible(lab, 2, 3)
    set_in_conf(lab, lab.db2, "failover", "manual")
    lab.stop_repmgrd(2)
    lab.start_repmgrd(2)
    found = red(lab, "manual")
    assert "node 2; it would win the election" in found["message"]
    lab.db1.pg_ctl("stop", "-m", "immediate")
    nobody_is_promoted(lab, lab.db2, lab.db3)
    lab.db1.pg_ctl("start")
    red(lab, "manual")
    set_in_conf(lab, lab.db2, "priority", 0)
    typed(lab, found["hint"])
    possible(lab, 3)
    lab.stop_repmgrd(3)  # it still waits for node 2
    lab.start_repmgrd(3)
    fails_over_to(lab, lab.db3)


def test_another_location_and_a_standby_behind_a_standby(three: Lab) -> None:
    lab = three
    register(lab, lab.db3, "priority", 100)
    for host in (lab.db2, lab.db3):
        register(lab, host, "location", "dc2")
    found = red(lab, "location")
    set_in_conf(lab, lab.db2, "location", "default")
    set_in_conf(lab, lab.db3, "location", "default")
    typed(lab, found["hint"])
    possible(lab, 2, 3)

    lab.db3.run(
        *("repmgr", "-f", "/etc/repmgr/db3.conf", "standby", "follow", "--upstream-node-id=2"),
        user="postgres",
        limit=120,
    )
    possible(lab, 2)
    end(lab, "repmgrd2")
    found = red(lab, "cascaded", "silent")
    follow = re.search(r"as postgres: (repmgr [^;]*)", found["hint"])
    assert follow
    lab.db3.run(*follow[1].split(), user="postgres", limit=120)
    wait_for(lambda: "would promote node 3" in lab.gateway.hooks("status").stdout, "node 3", SETTLED, every=1)
    fails_over_to(lab, lab.db3)
