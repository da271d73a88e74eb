"""What PgBouncers say, of two versions; and what they are asked to do, whatever becomes of one of them."""

from __future__ import annotations

import pytest

from repmgr_hooks.errors import OperationFailed
from repmgr_hooks.system import pgbouncer
from repmgr_hooks.system.consoles import connection_string
from repmgr_hooks.system.pgbouncer import FULL, PgBouncer, parsed
from tests.fake import FakeHost
from tests.fake_pgbouncer import FakePgBouncer, FakeServer, recorded

NEAR, FAR = "host=10.0.0.20 user=hooks", "host=10.0.0.30 port=6433 user=hooks"
VERSIONS = {"1.18.0": (1, 18), "1.24.1": (1, 24)}
DEAD = OperationFailed("PgBouncer 10.0.0.20:6432: Connection refused", code="no_answer")


def hosts(near: FakePgBouncer | None = None, far: FakePgBouncer | None = None) -> FakeHost:
    host = FakeHost()
    host.pgbouncers = {"10.0.0.20:6432": near or FakePgBouncer(), "10.0.0.30:6433": far or FakePgBouncer()}
    return host


def said(version: str) -> PgBouncer:
    tables = recorded(version)
    return parsed(NEAR, [tables[command] for command in FULL])


@pytest.mark.parametrize("version", VERSIONS)
def test_what_each_version_says(version: str) -> None:
    seen = said(version)
    assert seen.version == VERSIONS[version]
    app, admin = seen.databases
    assert (app.name, app.host, app.port, app.paused, app.connections) == ("app", "127.0.0.1", 5999, False, 1)
    assert (admin.name, admin.host, admin.pool_mode) == ("pgbouncer", "", "statement")
    (server,) = seen.servers
    assert (server.database, server.state, server.closing, server.age) == ("app", "active", False, 2.0)
    client = seen.client_of(server)
    assert client is not None
    assert (client.user, client.application, client.number > 0) == ("app", "invoices", version == "1.24.1")


@pytest.mark.parametrize("version", VERSIONS)
def test_who_keeps_a_pause_from_ending(version: str) -> None:
    (who,) = pgbouncer.blocking(said(version), ["app"])
    assert who.startswith("database app, user app, client 127.0.0.1 (invoices), connected since 2026-11-26 11:47:")
    assert pgbouncer.blocking(said(version), ["other"]) == []


def test_many_that_a_pause_waits_for_are_counted() -> None:
    near = FakePgBouncer(servers=[FakeServer(1, f"10.0.1.{number}") for number in range(9)], busy=True)
    failed = pgbouncer.pause({NEAR: ["app"]}, hosts(near), 20)
    assert "client 10.0.1.4" in str(failed[NEAR])
    assert str(failed[NEAR]).endswith("4 more")


def test_one_that_is_dead_keeps_nobody_from_being_paused_or_resumed() -> None:
    host = hosts(FakePgBouncer(failed=DEAD))
    both = {NEAR: ["app"], FAR: ["app"]}
    assert pgbouncer.pause(both, host, 20) == {NEAR: DEAD}
    assert host.pgbouncers["10.0.0.30:6433"].paused == {"app"}
    assert pgbouncer.resume(both, host) == {NEAR: DEAD}
    assert host.pgbouncers["10.0.0.30:6433"].paused == set()


def test_what_is_not_paused_any_more_is_as_it_should_be() -> None:
    host = hosts()
    assert pgbouncer.resume({NEAR: ["app", "gone"]}, host) == {}
    assert host.pgbouncers["10.0.0.20:6432"].said == []


def test_an_answer_that_cannot_be_read_is_a_failure_of_that_one() -> None:
    near = FakePgBouncer()
    near.databases = {"app": ("10.0.0.20", 54322)}
    host = hosts(near)
    host.ask_consoles = lambda asked, limit: {NEAR: [[{"version": "odd"}], [{"name": "app"}]]}  # type: ignore[method-assign]
    (error,) = pgbouncer.look([NEAR], host).values()
    assert isinstance(error, OperationFailed)
    assert error.code == "odd_answer"


def test_nothing_is_taken_from_the_environment() -> None:
    """``options`` would be refused, and an address of PGHOSTADDR would be another host's."""
    dsn = connection_string("host=10.0.0.20 user=hooks")
    for part in ("hostaddr=10.0.0.20", "options=''", "dbname=pgbouncer", "port=6432"):
        assert part in dsn
    assert "hostaddr=''" in connection_string("host=/run/postgresql user=hooks")
