"""A former primary that somebody starts again: it is stopped, its WAL kept, and it is made a standby. Real ssh."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.endtoend.conftest import fresh_lab
from tests.endtoend.looks import follows, led_to, runs, wait_until_good
from tests.endtoend.switchovers import rests
from tests.lab import CONFIG_FILE, DATA, Host, Lab, three, wait_for, wait_for_answer
from tests.lab.barman import back_up, serve_standbys, show_backups_to_repmgr

SECTION = """    former_primary:
      clone: {clone}
      config_files: [postgresql.conf, conf.d.conf, pg_hba.conf]
      limit: {{attempts: {attempts}, window: 86400}}
      fence: {{program: [{power}]}}

"""
WAITS = """#!/bin/sh
echo "$*" >>/tmp/repmgr-calls
case "$*" in *'{for_what}'*) while [ -e /tmp/repmgr-waits ]; do sleep 0.1; done ;; esac
exec /usr/bin/repmgr "$@"
"""
NO_POWER = "      fence: {program: []}\n"
POWER = "/usr/local/bin/power-off"
SWITCH = """#!/bin/sh
echo "$REPMGR_HOOKS_CLUSTER $REPMGR_HOOKS_NODE $REPMGR_HOOKS_HOST" >/tmp/power-asked
while [ ! -e /tmp/power-is-off ]; do sleep 0.1; done
"""
"""As a fence agent: it returns when the host is off."""
RECORD = "/var/lib/repmgr-hooks/cluster-main.former"


def configure(lab: Lab, attempts: int = 10, clone: str = "primary", power: str = "") -> None:
    """Let the service's user at the nodes, and have it look after former primaries."""
    place = lab.gateway.path(CONFIG_FILE)
    ssh = r"\1, shell: [ssh, -o, BatchMode=yes, postgres@\2]}"
    text = re.sub(r"(\d: {host: ([\d.]+))}", ssh, place.read_text())
    text = re.sub(r"(?m)^    former_primary:\n(?:      .*\n)+\n", "", text)
    text = text.replace("    flap_limit: {changes: 5, window: 600}\n", "    flap_limit: {changes: 50, window: 600}\n")
    section = SECTION.format(attempts=attempts, clone=clone, power=power)
    text = text.replace("    routes:\n", (section if power else section.replace(NO_POWER, "")) + "    routes:\n", 1)
    place.write_text(text)


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """Two nodes in service without a repmgrd; each test leaves them so that one is the other's standby."""
    with fresh_lab() as lab:
        lab.build_service()
        serve_standbys(lab)
        configure(lab)
        lab.serve(repmgrd=False)
        lab.start_passive_repmgrd()
        yield lab


def primary_and_standby(lab: Lab) -> tuple[Host, Host]:
    """Which node is what now."""
    old, new = (lab.db1, lab.db2) if lab.db1.sql("select pg_is_in_recovery()") == "f" else (lab.db2, lab.db1)
    return old, new


def fail_over(lab: Lab, old: Host, new: Host) -> None:
    """The primary dies, repmgr promotes the standby, and the ports lead there."""
    old.pg_ctl("stop", "-m", "immediate")
    new.run("repmgr", "-f", f"/etc/repmgr/{new.name}.conf", "standby", "promote", user="postgres")
    wait_for(lambda: led_to(lab, new), f"the ports to lead to {new.name}")


@contextmanager
def started_alone(lab: Lab, old: Host) -> Iterator[str]:
    """Somebody starts it, and it takes a write that no other node has. The service looks on until the end of this."""
    lab.gateway.hooks("pause")
    old.pg_ctl("start")
    yield old.sql("set synchronous_commit = local; insert into work default values returning id", "app")
    lab.gateway.hooks("resume")


def steps(lab: Lab) -> list[str]:
    """What the journal has of former primaries, oldest first; an error is marked."""
    found = [step for run in runs(lab) if run["cause"] == "former_primary" for step in run["steps"]]
    return [step["kind"] + ("!" if step["error"] else "") for step in found]


def kept(host: Host) -> list[Path]:
    """The copies of its own WAL."""
    return sorted(host.path(f"{DATA}.former").glob("wal-*"))


@contextmanager
def repmgr_waits(host: Host, for_what: str) -> Iterator[Path]:
    """A command of repmgr's waits there before it does anything; each call of it is a line of the log."""
    lab_file = host.path("/tmp/repmgr-calls")
    lab_file.write_text("")
    lab_file.chmod(0o666)
    host.path("/tmp/repmgr-waits").touch()
    place = host.path("/usr/local/bin/repmgr")
    place.write_text(WAITS.format(for_what=for_what))
    place.chmod(0o755)
    try:
        yield lab_file
    finally:
        host.path("/tmp/repmgr-waits").unlink(missing_ok=True)
        place.unlink()


def test_nothing_is_done_about_an_ordinary_node(lab: Lab) -> None:
    """A standby and a primary that are started anew, and a switchover by repmgr, which rejoins the old primary."""
    old, new = primary_and_standby(lab)
    new.pg_ctl("restart", "-m", "fast")
    old.pg_ctl("restart", "-m", "fast")
    wait_for(lambda: follows(new, old), f"{new.name} to follow {old.name}")
    wait_until_good(lab, old, [new])
    rests(lab)
    done = lab.gateway.hooks("switchover")
    assert done.returncode == 0, done.stdout + done.stderr
    wait_until_good(lab, new, [old])
    assert steps(lab) == []
    assert not lab.gateway.path(RECORD).exists()
    assert kept(old) == []


def test_it_is_stopped_its_wal_kept_and_rejoined(lab: Lab) -> None:
    """The service is killed meanwhile: what it has begun goes on, and the next one takes it up."""
    old, new = primary_and_standby(lab)
    fail_over(lab, old, new)
    with repmgr_waits(old, "node rejoin") as calls:
        with started_alone(lab, old) as lost:
            pass
        wait_for(lambda: "node rejoin" in calls.read_text(), "the rejoin to begin", 120)
        said = f"former primary: node {old.name[-1]} is being rejoined since"
        wait_for(lambda: said in lab.gateway.hooks("status").stdout, "status to say so", every=0.5)
        lab.daemons["worker"].kill()
        lab.daemons["worker"].wait(60)
        lab.start_worker()
    wait_for(lambda: follows(old, new), f"{old.name} to follow {new.name}", 120)
    wait_for(lambda: steps(lab) == ["fence_node", "rejoin_node"], "the journal")
    assert calls.read_text().count("node rejoin") == 1, "the next service has begun it again"
    # It streams before it has replayed what makes it consistent, and answers after that.
    wait_for(lambda: old.result("pg_isready", "-q").returncode == 0, f"{old.name} to answer")
    assert old.sql(f"select count(*) from work where id = {lost}", "app") == "0", (
        "that write is in the WAL that is kept"
    )
    assert len(kept(old)) == 1
    wait_until_good(lab, new, [old])


def configure_again(lab: Lab, **settings: str | int) -> None:
    """Have the service work by another configuration."""
    said = "the configuration has been read again"
    before = lab.gateway.log("worker").count(said)
    configure(lab, **settings)  # type: ignore[arg-type]
    lab.daemons["worker"].send_signal(signal.SIGHUP)
    wait_for(lambda: lab.gateway.log("worker").count(said) > before, "the service to have read it")


@pytest.mark.parametrize("source", ["primary", "barman"])
def test_what_cannot_be_rewound_is_cloned(lab: Lab, source: str) -> None:
    """The WAL before the switchpoint is gone. Barman's backup is from before the failover."""
    old, new = primary_and_standby(lab)
    if source == "barman":
        configure_again(lab, clone=source)
        back_up(lab, old)
        show_backups_to_repmgr(lab)
    before, of_before = len(steps(lab)), kept(old)
    fail_over(lab, old, new)
    with started_alone(lab, old):
        gone = old.sql("select pg_walfile_name(pg_current_wal_lsn())")
        for _ in range(2):
            old.sql("set synchronous_commit = local; select pg_switch_wal(), txid_current()")
        old.sql("checkpoint")
        old.path(f"{DATA}/pg_wal/{gone}").unlink(missing_ok=True)

    wait_for(lambda: follows(old, new), f"{old.name} to follow {new.name}", 120)
    wait_for(lambda: steps(lab)[before:] == ["fence_node", "rejoin_node!", "clone_node"], "the journal")
    assert old.path(f"{DATA}/conf.d.conf").read_text() == lab.config(f"postgresql-{old.name}.conf")
    assert len(kept(old)) == len(of_before) + 1
    said = "".join(path.read_text() for path in old.path(f"{DATA}.former").glob("said-*"))
    assert ("standby clone (from Barman) complete" in said) is (source == "barman"), said
    wait_until_good(lab, new, [old])


@contextmanager
def no_login(host: Host) -> Iterator[None]:
    """Nobody logs in there; its PostgreSQL goes on."""
    rule = ["INPUT", "-p", "tcp", "--dport", "22", "-j", "REJECT", "--reject-with", "tcp-reset"]
    host.run("iptables", "-I", *rule)
    try:
        yield
    finally:
        host.run("iptables", "-D", *rule)


def test_what_cannot_be_stopped_is_switched_off(lab: Lab) -> None:
    """By a program, as fence-agents are; the host is back later, and is rejoined after its crash."""
    old, new = primary_and_standby(lab)
    lab.put(lab.gateway, POWER, SWITCH, 0o755)
    configure_again(lab, power=POWER)
    before = len(steps(lab))
    fail_over(lab, old, new)
    asked, number = lab.gateway.path("/tmp/power-asked"), old.name[-1]
    with no_login(old):
        with started_alone(lab, old):
            pass  # nobody can stop it
        wait_for(asked.exists, "the program to be run", 120)
        old.pg_ctl("stop", "-m", "immediate")
        lab.gateway.path("/tmp/power-is-off").touch()
        off = f"former primary: node {number} was switched off by a program, and was not seen to be stopped"
        wait_for(lambda: off in lab.gateway.hooks("status").stdout, "status to say so", every=1)
    assert asked.read_text() == f"main {number} {old.address}\n"
    wait_for(lambda: follows(old, new), f"{old.name} to follow {new.name}", 180)
    wait_for(lambda: steps(lab)[before:][-1:] == ["rejoin_node"], "the journal")
    assert steps(lab)[before] == "fence_node"
    wait_until_good(lab, new, [old])


def test_after_its_attempts_it_stays_stopped(lab: Lab) -> None:
    """It cannot log in to the primary."""
    old, new = primary_and_standby(lab)
    before = len(steps(lab))
    configure_again(lab, attempts=1)
    lab.gateway.path(RECORD).unlink(missing_ok=True)  # what the tests before have used up
    password = old.path("/var/lib/postgresql/.pgpass")
    text = password.read_text()
    password.write_text("")
    fail_over(lab, old, new)
    with started_alone(lab, old):
        pass
    stays = f"node {old.name[-1]} stays stopped: 1 attempt(s) to rejoin it in 86400 s"
    wait_for(lambda: stays in lab.gateway.log("worker"), "its attempts to be used up", 180)
    wait_for(lambda: steps(lab)[before:] == ["fence_node", "rejoin_node!", "stay_node!"], "the journal")
    shown = stays.replace(": ", " (")
    said = wait_for_answer(lambda: lab.gateway.hooks("status").stdout, lambda text: shown in text, shown)
    assert f"host={new.address}" in said
    assert "pgrep" not in said
    assert not old.path(f"{DATA}/postmaster.pid").exists()

    password.write_text(text)
    three.rejoin(old, new)
    wait_for(lambda: "stays stopped" not in lab.gateway.hooks("status").stdout, "a status without it")
    wait_until_good(lab, new, [old])
