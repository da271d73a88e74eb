"""A subscriber misses no row over a switchover, a failover and a rejoin: PostgreSQL 17 and newer, under repmgr.

Our role is no superuser: it has the grants of config/grants.sql, those for ``failover_slots`` too.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import pytest

from tests.endtoend.looks import follows, led_to, nothing_missing
from tests.endtoend.test_plain_role import grant, use_plain_role
from tests.lab import CONFIG, CONFIG_FILE, Host, Lab, three, versions, wait_for, wait_for_answer
from tests.lab.versions import DATA

SINCE = 17
NEEDED = """
wal_level = logical
hot_standby_feedback = on
sync_replication_slots = on
synchronized_standby_slots = 'repmgr_slot_{other}'
"""
SLOT = "select {what} from pg_replication_slots where slot_name = 'sub'"
ROLE = "watcher"
ABSENT = "- slot: {on: standbys, state: absent}"


class LogicalLab(Lab):
    """A cluster whose logical slots are to survive, and a subscriber on the application's host."""

    def config(self, name: str) -> str:
        text = super().config(name)
        if name.startswith("postgresql-"):
            return text + NEEDED.format(other=2 if "db1" in name else 1)
        return f"{text}\nuse_replication_slots=true\n" if name.startswith("repmgr-") else text

    def keep_in_sync(self) -> None:
        """Put the handler into the route of the standbys, and have the service read that."""
        place = self.gateway.path(CONFIG_FILE)
        text = place.read_text()
        assert text.count(ABSENT) == 1
        place.write_text(text.replace(ABSENT, f"{ABSENT}\n          - failover_slots: {{}}"))
        self.restart_worker()

    def restart_worker(self) -> None:
        worker = self.daemons["worker"]
        worker.terminate()
        worker.wait(180)
        self.start_worker()

    def subscribe(self) -> None:
        """Let the application's host have a PostgreSQL of its own that subscribes to the table through the app port."""
        self.db1.sql("alter role app replication")
        self.db1.sql("create publication pub for table work", "app")
        self.app.run("initdb", "--no-sync", "-A", "peer", "-D", DATA, user="postgres")
        more = "fsync = off\nlisten_addresses = ''\nwal_retrieve_retry_interval = '1s'\n"
        self.append(self.app, f"{DATA}/postgresql.conf", more)
        self.app.pg_ctl("start")
        self.app.sql("create table work (id bigint primary key, at timestamptz)")
        way = f"{self.app_port} user=app dbname=app password={self.passwords['app']} connect_timeout=3"
        self.app.sql(f"create subscription sub connection '{way}' publication pub with (failover)", limit=60)

    def checked(self) -> dict[str, str]:
        """What ``check`` says of logical slots that is not well."""
        found = json.loads(self.gateway.hooks("check", "--json").stdout)
        return {
            f"{each['code']} {each['where'][5:]}".strip(): each["message"]
            for each in found
            if each["level"] != "OK" and each["code"].startswith("logical.")
        }


@pytest.fixture(scope="module")
def subscribed() -> Iterator[LogicalLab]:
    if int(versions.POSTGRESQL) < SINCE:
        pytest.skip(f"PostgreSQL {SINCE} and newer keep logical slots in sync")
    with LogicalLab() as lab:
        lab.open()
        use_plain_role(lab)
        grant(lab, ROLE)
        lab.restart_worker()
        three.start_ssh(lab)
        lab.subscribe()
        yield lab


def in_sync(host: Host) -> bool:
    return host.sql(SLOT.format(what="synced and not temporary and invalidation_reason is null")) == "t"


def every_row_arrives(lab: LogicalLab, primary: Host) -> bool:
    """The client must not be writing meanwhile."""
    rows = "select count(*), coalesce(sum(id), 0) from work"
    return lab.app.sql(rows) == primary.sql(rows, "app")


def log(host: Host) -> str:
    return host.path(f"{DATA}/server.log").read_text(errors="replace")


def test_repmgr_alone_keeps_no_slot(subscribed: LogicalLab) -> None:
    """What is to be mended is there: else nothing below shows anything."""
    said = 'replication slot synchronization requires "dbname" to be specified in "primary_conninfo"'
    wait_for(lambda: said in log(subscribed.db2), "the worker to say what it lacks")
    assert subscribed.db2.sql(SLOT.format(what="1")) == ""
    found = wait_for_answer(
        subscribed.checked, lambda said: set(said) == {"logical.route", "logical.sync node 2"}, "check to see it"
    )
    assert "primary_conninfo names no database" in found["logical.sync node 2"]
    said = "in sync on no standby"
    wait_for(lambda: said in subscribed.gateway.hooks("status").stdout, "status to say so", every=0.5)


def test_over_switchover_failover_and_rejoin(subscribed: LogicalLab) -> None:
    lab = subscribed
    lab.keep_in_sync()
    not_granted = f"{ROLE} may not write primary_conninfo and reload"
    found = {name: said for name, said in lab.checked().items() if name.startswith("logical.rights")}
    assert found == {f"logical.rights node {number}": not_granted for number in (1, 2)}
    for line in re.findall("--   (grant .*;)", (CONFIG / "grants.sql").read_text()):
        lab.db1.sql(line.replace("to repmgr;", f"to {ROLE};"), "repmgr")
    client = lab.start_client()
    wait_for(lambda: in_sync(lab.db2), "the slot on db2")

    # db1 keeps its slot, which is not a synced one.
    lab.db2.run("repmgr", "-f", "/etc/repmgr/db2.conf", "standby", "switchover", user="postgres", limit=300)
    wait_for(lambda: led_to(lab, lab.db2), "the ports to lead to db2")
    wait_for(lambda: in_sync(lab.db1), "the slot on db1")
    wait_for(lambda: nothing_missing(lab), "all steps to be done")
    assert "drop logical slot sub on standby 1" in lab.gateway.log("worker")
    wait_for_answer(lab.checked, lambda said: said == {}, "all to be well")

    # What the subscriber has, db1 has too: db2 waits for it (synchronized_standby_slots).
    lab.db2.pg_ctl("stop", "-m", "immediate")
    wait_for(lambda: led_to(lab, lab.db1), "the ports to lead to db1")
    three.rejoin(lab.db2, lab.db1)
    wait_for(lambda: follows(lab.db2, lab.db1), "db2 to follow db1")
    wait_for(lambda: in_sync(lab.db2), "the slot on db2, after a rejoin")

    client.stop()
    wait_for(lambda: every_row_arrives(lab, lab.db1), "every row at the subscriber")
    committed = {write.row for write in client.writes() if write.row is not None}
    assert committed <= {int(row) for row in lab.app.sql("select id from work").split()}
    assert "password" not in lab.gateway.log("worker")
