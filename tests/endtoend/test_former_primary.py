"""A former primary that somebody starts again: it is stopped, its WAL kept, and it is made a standby. Real ssh."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.endtoend.conftest import fresh_lab
from tests.endtoend.looks import follows, led_to, nothing_missing, wait_until_good, worker_log
from tests.lab import CONFIG_FILE, DATA, Host, Lab, three, wait_for

SECTION = """    former_primary:
      clone: primary
      config_files: [postgresql.conf, conf.d.conf, pg_hba.conf]
      limit: {{attempts: {attempts}, window: 86400}}

"""
RECORD = "/var/lib/repmgr-hooks/cluster-main.former"


def configure(lab: Lab, attempts: int = 10) -> None:
    """Let the service's user at the nodes, and have it look after former primaries."""
    place = lab.gateway.path(CONFIG_FILE)
    ssh = r"\1, shell: [ssh, -o, BatchMode=yes, postgres@\2]}"
    text = re.sub(r"(\d: {host: ([\d.]+))}", ssh, place.read_text())
    text = re.sub(r"(?m)^    former_primary:\n(?:      .*\n)+\n", "", text)
    text = text.replace("    flap_limit: {changes: 5, window: 600}\n", "    flap_limit: {changes: 50, window: 600}\n")
    text = text.replace("    routes:\n", SECTION.format(attempts=attempts) + "    routes:\n", 1)
    place.write_text(text)


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """Two nodes in service without a repmgrd; each test leaves them so that one is the other's standby."""
    lab = fresh_lab()
    try:
        lab.build()
        three.start_ssh(lab)
        configure(lab)
        assert lab.gateway.hooks("reconcile").returncode == 0
        lab.start_cron()
        lab.start_worker()
        lab.start_passive_repmgrd()
        yield lab
    finally:
        lab.destroy()


def primary_and_standby(lab: Lab) -> tuple[Host, Host]:
    """Which node is what now."""
    old, new = (lab.db1, lab.db2) if lab.db1.sql("select pg_is_in_recovery()") == "f" else (lab.db2, lab.db1)
    return old, new


def fail_over(lab: Lab, old: Host, new: Host) -> None:
    """The primary dies, repmgr promotes the standby, and the ports lead there."""
    old.pg_ctl("stop", "-m", "immediate")
    new.run("repmgr", "-f", f"/etc/repmgr/{new.name}.conf", "standby", "promote", user="postgres")
    wait_for(lambda: led_to(lab, new), f"the ports to lead to {new.name}")


def write_alone(old: Host) -> str:
    """Somebody starts it, and it takes a write that no other node has."""
    old.pg_ctl("start")
    return old.sql("set synchronous_commit = local; insert into work default values returning id", "app")


def steps(lab: Lab) -> list[str]:
    """What the journal has of former primaries, oldest first; an error is marked."""
    runs = json.loads(lab.gateway.hooks("history", "-n", "100", "--json").stdout)
    found = [step for run in runs if run["cause"] == "former_primary" for step in run["steps"]]
    return [step["kind"] + ("!" if step["error"] else "") for step in found]


def kept(host: Host) -> list[Path]:
    """The copies of its own WAL."""
    return sorted(host.path(f"{DATA}.former").glob("wal-*"))


def test_it_is_stopped_its_wal_kept_and_rejoined(lab: Lab) -> None:
    old, new = primary_and_standby(lab)
    before = len(steps(lab))
    fail_over(lab, old, new)
    lost = write_alone(old)
    wait_for(lambda: follows(old, new), f"{old.name} to follow {new.name}", 120)
    wait_for(lambda: steps(lab)[before:] == ["fence_node", "rejoin_node"], "the journal")
    assert old.sql(f"select count(*) from work where id = {lost}", "app") == "0", (
        "that write is in the WAL that is kept"
    )
    (copy,) = kept(old)
    assert list(copy.glob("00000001*")), list(copy.iterdir())
    wait_until_good(lab, new, [old])
