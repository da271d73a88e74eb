"""PgBouncers: what of their pools leads to a former primary, and whom we let go on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from repmgr_hooks import clock
from repmgr_hooks.cluster.decide import ClusterState
from repmgr_hooks.cluster.last_known import LastKnownPrimary
from repmgr_hooks.errors import OperationFailed
from repmgr_hooks.handlers import pgbouncer
from repmgr_hooks.handlers.pgbouncer import Config, Consoles
from repmgr_hooks.journal import holds
from repmgr_hooks.journal.holds import Hold
from repmgr_hooks.settings.cluster import Cluster, Gateway, Node, Postgres
from repmgr_hooks.system.apply import apply
from tests.fake import FakeHost
from tests.fake_pgbouncer import FakePgBouncer, FakeServer

PASSFILE = "/etc/repmgr-hooks/pgpass"
CLUSTER = Cluster(
    {1: Node("10.0.0.11"), 2: Node("10.0.0.12")},
    Gateway("10.0.0.20", {"app": 54322}),
    postgres=Postgres(passfile=PASSFILE),
    name="main",
)
NEAR, FAR = "10.0.0.20:6432", "10.0.0.30:6433"
CONFIG = Config(("app",), ["host=10.0.0.20 user=hooks", "host=10.0.0.30 port=6433 user=hooks"])
CONSOLES = CONFIG.consoles(CLUSTER)
DEAD = OperationFailed(f"PgBouncer {NEAR}: Connection refused", code="no_answer")


def hosts(near: FakePgBouncer, far: FakePgBouncer | None = None) -> FakeHost:
    host = FakeHost()
    host.pgbouncers = {NEAR: near, FAR: far or FakePgBouncer()}
    host.sleep(1000)
    return host


def state(changed: float | None = None, cluster: Cluster = CLUSTER) -> ClusterState:
    """Node 2 is the primary, since so many seconds."""
    since = clock.wall() - changed if changed is not None else 0.0
    return ClusterState(cluster, 2, 2, last_known=LastKnownPrimary(2, 2, since=since))


def steps(host: FakeHost, given: ClusterState) -> list[str]:
    return [step.what for step in pgbouncer.plan(CONFIG, given, pgbouncer.observe(CONFIG, given, host))]


RECONNECT = f"reconnect app on PgBouncer {NEAR}"


@pytest.mark.parametrize(
    ("servers", "changed", "wanted"),
    [
        ([FakeServer(900)], 50, [RECONNECT]),
        ([FakeServer(900, "10.0.0.30")], 50, [RECONNECT]),
        ([FakeServer(980)], 50, []),
        # A second after the change, or before it: by whole seconds nobody can tell, and RECONNECT would end a login.
        ([FakeServer(951), FakeServer(949)], 50, []),
        ([FakeServer(980), FakeServer(900)], 50, [RECONNECT]),
        ([FakeServer(900, database="other")], 50, []),
        ([FakeServer(900)], None, []),
        ([FakeServer(900)], 5000, []),
        ([], 50, []),
        # It ends with its transaction; and before 1.24 one client cannot be ended.
        ([FakeServer(900, "10.0.0.30", closing=True)], 50, []),
    ],
)
def test_what_is_older_than_the_primary_is_not_used_again(
    servers: list[FakeServer], changed: float | None, wanted: list[str]
) -> None:
    assert steps(hosts(FakePgBouncer(servers=servers)), state(changed)) == wanted


def test_a_client_that_waits_for_ever_is_ended_where_that_can_be_done() -> None:
    near = FakePgBouncer("1.24.1", servers=[FakeServer(900, "10.0.0.31"), FakeServer(980, "10.0.0.32")])
    host, given = hosts(near), state(50)
    for _ in range(2):
        for step in pgbouncer.plan(CONFIG, given, pgbouncer.observe(CONFIG, given, host)):
            assert step.helper, "nothing waits for a PgBouncer"
            apply(step, host)
    assert host.what_changed() == [f'RECONNECT "app" on {NEAR}', f"KILL_CLIENT 1 on {NEAR}"]
    assert [server.client for server in near.servers] == ["10.0.0.32"]
    assert steps(host, given) == []


def held(tmp_path: Path, **changed: Any) -> Cluster:
    cluster = replace(CLUSTER, state_dir=str(tmp_path))
    now, paused = clock.monotonic(), dict.fromkeys(CONSOLES, ("app",))
    given = Hold("main", holds.this_process(), clock.wall(), now, 60.0, ("pgbouncer",), 1, 1, "a test", paused)
    holds.write(cluster, replace(given, **changed))
    return cluster


def test_our_clients_go_on_with_the_next_primary_and_not_before(tmp_path: Path) -> None:
    cluster = held(tmp_path)
    host = hosts(FakePgBouncer(paused={"app"}), FakePgBouncer(paused={"app"}))
    before = ClusterState(cluster, 1, 1, last_known=LastKnownPrimary(1, 1))
    assert steps(host, before) == []
    pgbouncer.housekeep(CONFIG, before, host)
    assert steps(host, state(cluster=cluster)) == [f"resume app on PgBouncer {name}" for name in (NEAR, FAR)]


def test_what_is_over_goes_on_with_the_same_primary(tmp_path: Path) -> None:
    cluster = held(tmp_path, primary=2, timeline=2, over=True)
    assert steps(hosts(FakePgBouncer(paused={"app"})), state(cluster=cluster)) == [f"resume app on PgBouncer {NEAR}"]


def test_what_we_have_not_paused_is_named_and_stays_so(tmp_path: Path) -> None:
    cluster = held(tmp_path, pgbouncers={CONSOLES[1]: ("app",)})
    host = hosts(FakePgBouncer(paused={"app"}), FakePgBouncer(paused={"app"}))
    assert steps(host, state(cluster=cluster)) == [f"resume app on PgBouncer {FAR}"]
    with pytest.raises(OperationFailed, match=f"PgBouncer {NEAR}: database app is paused, and not by us") as error:
        pgbouncer.housekeep(CONFIG, state(cluster=cluster), host)
    assert 'RESUME "app"' in error.value.hint


def test_one_that_is_dead_is_no_step_and_is_said() -> None:
    host = hosts(FakePgBouncer(failed=DEAD), FakePgBouncer(servers=[FakeServer(900)]))
    assert steps(host, state(50)) == [f"reconnect app on PgBouncer {FAR}"]
    with pytest.raises(OperationFailed, match="Connection refused"):
        pgbouncer.housekeep(CONFIG, state(50), host)


def test_the_password_is_in_a_file() -> None:
    assert f"passfile={PASSFILE}" in CONSOLES[0]
    assert "passfile=/own" in Config(("app",), "host=10.0.0.20 user=hooks passfile=/own").consoles(CLUSTER)[0]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("host=10.0.0.20 user=hooks", ""),
        (["host=10.0.0.20 user=hooks", "host=/run/postgresql user=hooks"], ""),
        ("host=10.0.0.20 user=hooks sslmode=verify-full sslrootcert=/etc/ca.pem", ""),
        ("postgresql://hooks@10.0.0.20:6432/", ""),
        ([], "must not be empty"),
        (7, "must be a connection string of libpq's, or a list of them"),
        ("10.0.0.20", "holds a connection string that libpq cannot read"),
        ("host=10.0.0.20 user=hooks password=secret", "holds a password: the file is not secret"),
        ("user=hooks password=secret x", "holds a connection string that libpq cannot read"),
        ("host=10.0.0.20,10.0.0.30 user=hooks", "names several hosts in one connection string"),
        ("host=10.0.0.20", "holds a connection string without 'user'"),
        ("user=hooks", "holds a connection string without 'host'"),
        ("host=10.0.0.20 user=hooks dbname=app", "sets 'dbname', which repmgr_hooks sets itself"),
        ("host=10.0.0.20 user=hooks sslmode=x", "'sslmode': libpq: "),
        (["host=10.0.0.20 user=hooks"] * 2, "names one console twice"),
    ],
)
def test_how_a_console_is_named(given: object, message: str) -> None:
    found = Consoles().problem(given)
    assert str(found or "").startswith(message)
    assert bool(found) == bool(message)
    assert "secret" not in f"{found} {found.hint if found else ''}".replace("the file is not secret", "")
