"""A slot that is not Barman's follows the primary too: that of a pg_receivewal, which comes through Barman's port."""

from __future__ import annotations

from tests.endtoend.looks import failover_handled, follows, led_to, nothing_missing, slot
from tests.lab import CONFIG_FILE, Lab, wait_for
from tests.lab.three import rejoin

PLACE = "/var/lib/barman/second"
LINES = {
    "- slot: {on: primary}": "- slot: {name: second, on: primary}",
    "- slot: {on: standbys, state: absent}": "- slot: {name: second, on: standbys, state: absent}",
}


def keep_second_slot(lab: Lab) -> None:
    path = lab.gateway.path(CONFIG_FILE)
    text = path.read_text()
    for line, more in LINES.items():
        assert text.count(line) == 1
        text = text.replace(line, f"{line}\n          {more}")
    path.write_text(text)


def test_over_a_failover_and_a_rejoin(built_lab: Lab) -> None:
    lab = built_lab
    keep_second_slot(lab)
    assert lab.gateway.hooks("reconcile").returncode == 0
    assert slot(lab.db1, "second") == "f|t|reserved"
    lab.start_worker()
    lab.start_repmgrd()
    lab.gateway.run("mkdir", PLACE, user="barman")
    way = ("-h", lab.gateway.address, "-p", "54321", "-U", "streaming_barman", "-S", "second", "-D", PLACE)
    lab.daemons["second"] = lab.gateway.start("pg_receivewal", *way, user="barman", log="second")
    wait_for(lambda: slot(lab.db1, "second") == "t|t|reserved", "pg_receivewal to stream from db1")

    lab.db1.pg_ctl("stop", "-m", "immediate")
    wait_for(lambda: failover_handled(lab), "the end of the events")
    assert led_to(lab, lab.db2)
    wait_for(lambda: slot(lab.db2, "second") == "t|t|reserved", "pg_receivewal to stream from db2")
    lab.db2.sql("select pg_switch_wal()")
    newer = "00000002"
    wait_for(lambda: newer in lab.gateway.run("ls", PLACE, user="barman"), "WAL of timeline 2")

    rejoin(lab.db1, lab.db2)
    wait_for(lambda: follows(lab.db1, lab.db2), "db1 to follow db2")
    wait_for(lambda: slot(lab.db1, "second") == "" and nothing_missing(lab), "the slot to be dropped on db1")
    assert "slot second: reserved" in lab.gateway.hooks("status").stdout

    # One that somebody uses on a standby stays, and is named.
    # Before that somebody has come the service would drop it.
    assert lab.gateway.hooks("pause", "--for", "30m").returncode == 0
    lab.db1.sql("select pg_create_physical_replication_slot('second', true)")
    cascade = ("-h", lab.db1.address, "-U", "repmgr", "-S", "second", "-D", "/tmp")
    lab.daemons["cascade"] = lab.db1.start("pg_receivewal", *cascade, user="postgres", log="cascade")
    wait_for(lambda: slot(lab.db1, "second") == "t|t|reserved", "somebody to use it")
    assert lab.gateway.hooks("resume").returncode == 0
    said = "slot second on standby 1 is in use by 'pg_receivewal'"
    wait_for(lambda: said in lab.gateway.hooks("status").stdout, "status to name who uses it", every=1)
    assert slot(lab.db1, "second") == "t|t|reserved"
