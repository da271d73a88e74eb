"""What a client's visit shows: in one word, in a sentence, and what to do about it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

import pytest
from psycopg import conninfo

from repmgr_hooks.cluster.probe import Probe, ProbeCode, judge, led_astray, merged, probe, way_through
from repmgr_hooks.cluster.probe_from import parse
from repmgr_hooks.errors import OperationFailed
from repmgr_hooks.settings.cluster import Cluster, Gateway, Node, Postgres, ProbeSettings, Readers
from repmgr_hooks.system import client
from repmgr_hooks.system.steps import Program, Rows, Sql
from repmgr_hooks.system.visit import LATE, Visit
from tests.fake import FakeHost

MAIN = Cluster(
    nodes={1: Node("10.0.0.11"), 2: Node("10.0.0.12")},
    gateway=Gateway("10.0.0.20", {"barman": 54321, "app": 54322}),
    probe=ProbeSettings("app", "shop", "/etc/pass"),
    name="main",
)
HBA = 'FATAL:  no pg_hba.conf entry for host "10.0.0.20", user "app", database "shop", SSL encryption'


class Asked(FakeHost):
    """Answers what the late session waits for."""

    event: str | None = "SyncRep"

    def fetch(self, sql: Sql, limit: float) -> Rows:
        assert sql.params == (77, client.APPLICATION)
        assert "pg_terminate_backend" in sql.statement
        self.changes.append((0.0, f"end session on node {sql.node}"))
        return [(self.event, "FIRST 1 (nobody)", True)]


@pytest.mark.parametrize(
    ("visit", "code", "message", "hint"),
    [
        (Visit("done", server="10.0.0.11"), ProbeCode.WRITES, "", ""),
        (Visit("done", server="10.0.0.99"), ProbeCode.ELSEWHERE, "10.0.0.99, which is not one of the nodes", "check"),
        (Visit("ask", server="10.0.0.12", in_recovery=True), ProbeCode.STANDBY, "node 2, which is in recovery", "rule"),
        (
            Visit("ask", server="10.0.0.11", read_only="configuration file"),
            *(ProbeCode.READ_ONLY, "sessions of app on node 1 are read-only", "alter system set default_transaction_r"),
        ),
        (Visit("ask", server="10.0.0.11", read_only="user"), ProbeCode.READ_ONLY, "read-only", "alter role app reset"),
        (
            Visit("ask", server="10.0.0.11", read_only="database"),
            *(ProbeCode.READ_ONLY, "read-only", "alter database shop reset"),
        ),
        (Visit(error=LATE), ProbeCode.SILENT, "no answer within 5 s", "names what drops"),
        (Visit(error="Connection refused"), ProbeCode.CLOSED, "nothing answers on 10.0.0.20:54322", "reconcile"),
        (Visit(error="No route to host"), ProbeCode.SILENT, "no answer", "check"),
        (Visit(error=HBA), ProbeCode.REJECTED, HBA, "host shop app 10.0.0.20/32 scram-sha-256"),
        (
            Visit(error='FATAL:  password authentication failed for user "app"'),
            *(ProbeCode.REJECTED, "password authentication failed", "in /etc/pass: *:*:shop:app:PASSWORD"),
        ),
        (
            Visit(error='FATAL:  too many connections for role "app"'),
            *(ProbeCode.NO_CONNECTION_LEFT, "too many", "alter role app connection limit -1"),
        ),
        (
            Visit(error="FATAL:  sorry, too many clients already"),
            *(ProbeCode.NO_CONNECTION_LEFT, "too many clients", "raise max_connections"),
        ),
        (
            Visit(error="FATAL:  remaining connection slots are reserved for non-replication superuser connections"),
            *(ProbeCode.NO_CONNECTION_LEFT, "remaining connection slots", "raise max_connections"),
        ),
        (Visit(error="zu viele", sqlstate="53300"), ProbeCode.NO_CONNECTION_LEFT, "zu viele", "max_connections"),
        (
            Visit("ask", "could not write to file: No space left on device", "53100", "10.0.0.11"),
            *(ProbeCode.DISK_FULL, "No space left", "on node 1, make room"),
        ),
        (
            Visit("ask", "psql: ERROR:  could not write: No space left on device", server="10.0.0.12"),
            *(ProbeCode.DISK_FULL, "No space left", "on node 2, make room"),
        ),
        (
            Visit(error='FATAL:  database "shop" is not currently accepting connections'),
            *(ProbeCode.FAILED, "accepting", "on the primary: alter database shop allow_connections true;"),
        ),
        (
            Visit(error='FATAL:  permission denied for database "shop"'),
            *(ProbeCode.FAILED, "denied", "on the primary: grant connect on database shop to app;"),
        ),
        (Visit(error='FATAL:  database "shop" does not exist'), ProbeCode.FAILED, "does not exist", "psql 'host=10."),
    ],
)
def test_what_a_visit_shows(visit: Visit, code: ProbeCode, message: str, hint: str) -> None:
    found = judge(MAIN, "app", visit, FakeHost())
    assert found.code is code
    assert message in found.message
    assert hint in found.hint
    assert bool(found.hint) == bool(found.message) == (not found.writes)


READERS = replace(
    MAIN,
    gateway=replace(MAIN.gateway, ports={**MAIN.gateway.ports, "readers": 54323}),
    readers={"readers": Readers(1)},
)


@pytest.mark.parametrize(
    ("visit", "code", "served", "good", "said"),
    [
        (Visit("ask", server="10.0.0.12", in_recovery=True), ProbeCode.READS, True, True, "a client reads on node 2"),
        (
            Visit("ask", server="10.0.0.11", read_only="client"),
            *(ProbeCode.READS_ON_PRIMARY, True, False, "a client reads on node 1: it is the primary, for no standby"),
        ),
        (Visit("ask", server="10.0.0.99", in_recovery=True), ProbeCode.ELSEWHERE, False, False, "no client can read"),
        (
            Visit("ask", "server closed", in_recovery=True, server="10.0.0.12"),
            *(ProbeCode.STANDBY, False, False, "read"),
        ),
        (Visit(error="Connection refused"), ProbeCode.CLOSED, False, False, "no client can read: nothing answers"),
        (Visit(error=LATE), ProbeCode.SILENT, False, False, "no client can read: no answer within 5 s"),
    ],
)
def test_a_reader_is_not_told_that_it_cannot_write(
    visit: Visit, code: ProbeCode, served: bool, good: bool, said: str
) -> None:
    found = judge(READERS, "readers", visit, FakeHost())
    assert (found.code, found.served, found.good) == (code, served, good)
    assert said in str(found)
    assert bool(found.hint) == bool(found.message) == (not good)


def test_a_port_that_is_closed_because_no_standby_is_fit() -> None:
    closing = replace(READERS, readers={"readers": Readers(1, "close")})
    found = judge(closing, "readers", Visit(error="Connection refused"), FakeHost())
    assert (found.message, "status" in found.hint) == ("it is closed, for no standby is fit for readers", True)


def test_a_reader_does_not_mean_to_write() -> None:
    assert "default_transaction_read_only=on" in way_through(READERS, "readers")
    assert "read_only" not in way_through(READERS, "app")


@pytest.mark.parametrize(("node", "primary", "good"), [(1, 1, True), (1, 2, False), (1, None, True)])
def test_readers_on_a_node_out_of_recovery_that_is_not_the_primary(node: int, primary: int | None, good: bool) -> None:
    (found,) = led_astray([Probe("readers", ProbeCode.READS_ON_PRIMARY, node, reader=True)], primary)
    assert found.served is good
    (found,) = led_astray([Probe("readers", ProbeCode.READS, 2, reader=True)], primary)
    assert found.served


def test_a_commit_that_waits_on_a_stale_primary_is_not_to_be_helped() -> None:
    """What it waits for is all that keeps clients from writing where it is lost."""
    waits = Probe("app", ProbeCode.COMMIT_WAITS, 1, message="commits wait", hint="without its safety ...")
    (found,) = led_astray([waits], 2)
    assert (found.code, found.message) == (ProbeCode.ELSEWHERE, "it leads to node 1")
    assert "safety" not in found.hint
    assert led_astray([waits], 1) == led_astray([waits], None) == [waits]


class Foreign(FakeHost):
    """A primary that speaks another language, and says in English why it lets nobody in."""

    def __init__(self, reason: str) -> None:
        super().__init__()
        self.reason = reason

    def fetch_each(self, queries: Iterable[Sql], limit: float) -> dict[int, Rows | OperationFailed]:
        asked = list(queries)
        assert {sql.params for sql in asked} == {("app", "shop")}
        return {1: [(self.reason,)] if self.reason else [], 2: OperationFailed("no answer")}


@pytest.mark.parametrize(
    ("reason", "code", "hint"),
    [
        ('role "app" is not permitted to log in', ProbeCode.REJECTED, "alter role app login"),
        ('too many connections for role "app"', ProbeCode.NO_CONNECTION_LEFT, "alter role app connection limit -1"),
        ("sorry, too many clients already", ProbeCode.NO_CONNECTION_LEFT, "raise max_connections"),
        ('password authentication failed for user "app"', ProbeCode.REJECTED, "in /etc/pass"),
        ('permission denied for database "shop"', ProbeCode.FAILED, "grant connect on database shop to app"),
        ('database "shop" is not currently accepting connections', ProbeCode.FAILED, "allow_connections true"),
        ("", ProbeCode.FAILED, "psql 'host=10."),
    ],
)
def test_a_server_that_speaks_another_language(reason: str, code: ProbeCode, hint: str) -> None:
    found = judge(MAIN, "app", Visit(error="ВАЖНО: нет", rejected=True), Foreign(reason))
    assert (found.code, hint in found.hint) == (code, True), found
    assert found.message == (f"{reason} (ВАЖНО: нет)" if reason else "ВАЖНО: нет")


def test_pg_hba_conf_is_called_so_in_all_languages() -> None:
    said = "ВАЖНО: в pg_hba.conf нет записи для компьютера '10.0.0.20', пользователя 'app', базы 'shop'"
    found = judge(MAIN, "app", Visit(error=said, rejected=True), FakeHost())
    assert (found.code, found.message) == (ProbeCode.REJECTED, said)
    assert found.hint.endswith("host shop app 10.0.0.20/32 scram-sha-256")


@pytest.mark.parametrize(
    ("event", "code"), [("SyncRep", ProbeCode.COMMIT_WAITS), ("WALSync", ProbeCode.SILENT), (None, ProbeCode.SILENT)]
)
def test_a_commit_that_does_not_return(event: str | None, code: ProbeCode) -> None:
    host = Asked()
    host.event = event
    found = judge(MAIN, "app", Visit("commit", LATE, server="10.0.0.11", pid=77), host)
    assert (found.code, host.what_changed()) == (code, ["end session on node 1"]), "no session is left behind"
    if code is ProbeCode.COMMIT_WAITS:
        assert "synchronous_standby_names = 'FIRST 1 (nobody)'" in found.message


def test_through_the_ports_of_the_gateway() -> None:
    host = FakeHost()
    assert [(found.port, found.code, found.node) for found in probe(MAIN, ["barman", "app"], host)] == [
        ("barman", ProbeCode.WRITES, 1),
        ("app", ProbeCode.WRITES, 1),
    ]
    host.fail_over()
    assert [found.code for found in probe(MAIN, ["app"], host)] == [ProbeCode.SILENT]


def test_ports_that_lack_the_same_are_named_together() -> None:
    barman, app = (Probe(port, ProbeCode.SILENT, message="no answer", hint="x") for port in ("barman", "app"))
    assert [str(found) for found in merged([barman, app])] == ["port barman, app: no client can write: no answer"]
    assert merged([Probe("app", ProbeCode.WRITES, 1)]) == []
    assert len(merged([barman, replace(app, message="else")])) == 2


def test_who_writes_elsewhere_than_on_the_primary_is_not_served() -> None:
    (found,) = led_astray([Probe("app", ProbeCode.WRITES, 1)], 2)
    assert (found.code, found.message) == (ProbeCode.ELSEWHERE, "it leads to node 1")
    assert led_astray([Probe("app", ProbeCode.WRITES, 1)], None)[0].writes


@pytest.mark.parametrize(
    ("said", "visit"),
    [
        (
            "10.0.0.11|f|f|77|5432\n0/5000060\nrepmgr-hooks: ended: 0\n",
            Visit("done", "", "", "10.0.0.11", False, "", 77, port=5432),
        ),
        (
            "10.0.0.12|t|f|77|5432\nERROR:  x\nrepmgr-hooks: ended: 3\n",
            Visit("ask", "", "", "10.0.0.12", True, "", 77, port=5432),
        ),
        (
            "10.0.0.11|f|t|77|5432\n0/5\nrepmgr-hooks: ended: 0\n",
            Visit("ask", "", "", "10.0.0.11", False, "client", 77, port=5432),
        ),
        (
            "10.0.0.11|f|f|77|5432\nrepmgr-hooks: ended: 124\n",
            Visit("commit", LATE, "", "10.0.0.11", False, "", 77, port=5432),
        ),
        ("repmgr-hooks: ended: 124\n", Visit(error=LATE)),
        (f"psql: error: {HBA}\nrepmgr-hooks: ended: 2\n", Visit(error=f"psql: error: {HBA}", rejected=True)),
        ("psql: error: ВАЖНО:  нет\nrepmgr-hooks: ended: 2\n", Visit(error="psql: error: ВАЖНО:  нет", rejected=True)),
        (
            "10.0.0.11|f|f|77|5432\npsql:<stdin>:4: ОШИБКА:  53100: нет места\nrepmgr-hooks: ended: 3\n",
            Visit(
                "commit",
                "10.0.0.11|f|f|77|5432 psql:<stdin>:4: ОШИБКА:  53100: нет места",
                "53100",
                "10.0.0.11",
                pid=77,
                port=5432,
            ),
        ),
        ("sh: 1: psql: not found\nrepmgr-hooks: ended: 127\n", Visit(error="sh: 1: psql: not found")),
        (
            "a banner\n10.0.0.11|f|f|7|5432\n0/5\nrepmgr-hooks: ended: 0\n",
            Visit("done", "", "", "10.0.0.11", False, "", 7, port=5432),
        ),
        ("Permission denied", Visit(error="psql was not run to its end: Permission denied")),
    ],
)
def test_what_psql_says_elsewhere(said: str, visit: Visit) -> None:
    assert parse(said) == visit


def test_from_elsewhere() -> None:
    """The words that lead there get a script on stdin; no password is in it."""
    host, ran = FakeHost(), list[Program]()

    def ssh(program: Program) -> str:
        ran.append(program)
        return "10.0.0.11|f|f|77|5432\n0/5000060\nrepmgr-hooks: ended: 0\n"

    host.programs["ssh"] = ssh
    there = replace(MAIN, probe=ProbeSettings("app", "shop", "/etc/pass", 5, 30, ("ssh", "app1")))
    here, elsewhere = probe(there, ["app"], host)
    assert (here.origin, elsewhere.origin, elsewhere.node, elsewhere.code) == ("", "ssh app1", 1, ProbeCode.WRITES)
    assert ran[0].argv == ("ssh", "app1", "sh")
    assert "'host=10.0.0.20 port=54322 user=app dbname=shop'" in ran[0].stdin or "port=54322" in ran[0].stdin
    assert "passfile" not in ran[0].stdin


def test_a_password_is_protected_on_this_way_as_on_that_to_the_nodes() -> None:
    """A port has no name that a certificate could be for; a certificate of repmgr's role is not the application's."""
    asked: dict[str, str] = {}

    class Sees(FakeHost):
        def visit_each(self, dsns: Mapping[str, str], limit: float) -> dict[str, Visit]:
            asked.update(conninfo.conninfo_to_dict(dsns["app"]))
            return super().visit_each(dsns, limit)

    libpq = {"sslmode": "verify-full", "sslrootcert": "/etc/root.crt", "sslcert": "/etc/repmgr.crt"}
    probe(replace(MAIN, postgres=Postgres(libpq=libpq)), ["app"], Sees())
    assert asked == {
        "host": "10.0.0.20",
        "hostaddr": "10.0.0.20",
        "port": "54322",
        "user": "app",
        "dbname": "shop",
        "passfile": "/etc/pass",
        "sslmode": "verify-ca",
        "sslrootcert": "/etc/root.crt",
    }
