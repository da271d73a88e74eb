"""The real PgBouncer in front of the app port: failovers through it, and holds that are taken back whatever dies."""

from __future__ import annotations

import json
import re
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from repmgr_hooks.system.pgbouncer import KILLS_CLIENTS
from tests.endtoend.conftest import fresh_lab
from tests.endtoend.looks import failover_handled, led_to
from tests.endtoend.test_worker import kill_worker
from tests.endtoend.typist import type_in
from tests.lab import CONFIG_FILE, Lab, three, wait_for
from tests.lab.pgbouncer import ADMIN, PASSFILE, Pooler, hold, use

RECORD = "/var/lib/repmgr-hooks/cluster-main.hold"
LONG = 3000.0
"""Seconds that no test takes: what is taken back before is not taken back for its limit."""


@dataclass(frozen=True)
class Pooled:
    """A lab, the PgBouncer on its gateway, and the one beside the application."""

    lab: Lab
    near: Pooler
    far: Pooler

    def go_on(self) -> bool:
        """Whether nobody is held."""
        return not (self.near.paused() or self.far.paused() or self.lab.gateway.path(RECORD).exists())


@pytest.fixture
def pooled() -> Iterator[Pooled]:
    """Two nodes in service, and two PgBouncers of which the service knows."""
    with fresh_lab() as lab:
        lab.build_service()
        near, far = Pooler(lab, lab.gateway), Pooler(lab, lab.app, 6433)
        use(lab, near, far)
        lab.serve()
        yield Pooled(lab, near, far)


TLS = """
client_tls_sslmode = require
client_tls_key_file = /etc/pgbouncer/key.pem
client_tls_cert_file = /etc/pgbouncer/cert.pem
"""
CERTIFICATE = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=gateway -addext subjectAltName=IP:10.0.0.20"


def test_a_console_that_speaks_tls_only_and_one_at_a_unix_socket() -> None:
    """Both are of one PgBouncer, which has no TLS at its socket; each is asked, and may pause."""
    with fresh_lab() as lab:
        lab.build()
        place = "/etc/pgbouncer"
        lab.gateway.path(place).mkdir(exist_ok=True)
        lab.gateway.run(*CERTIFICATE.split(), "-keyout", f"{place}/key.pem", "-out", f"{place}/cert.pem")
        lab.gateway.run("chown", "postgres:", f"{place}/key.pem")
        pooler = Pooler(lab, lab.gateway, more=TLS, how=f"sslmode=verify-full sslrootcert={place}/cert.pem")
        use(lab, pooler)
        result = lab.gateway.hooks("reconcile")
        assert result.returncode == 0, result.stdout + result.stderr
        config = lab.gateway.path(CONFIG_FILE)
        at_socket = f"host=/run/postgresql port=6432 user={ADMIN}"
        for consoles in (f"'{pooler.console}', '{at_socket}'", f"'{at_socket}'"):
            config.write_text(re.sub(r"\[app\], on: \[.*?\]}", f"[app], on: [{consoles}]}}", config.read_text()))
            assert findings(lab) == []
            held = hold(lab, limit=60, seconds=0)
            wait_for(lambda said=held.said: "released" in said(), "the clients to go on")  # type: ignore[misc]
            assert not pooler.paused()


def test_processes_that_share_a_port_are_named_by_their_sockets() -> None:
    """Linux gives each connection to one of them: PAUSE reached one, RESUME another, and clients waited for ever."""
    with fresh_lab() as lab:
        lab.build()
        use(lab, Pooler(lab, lab.gateway, more="so_reuseport = 1"))
        assert lab.gateway.hooks("reconcile").returncode == 0
        (found,) = findings(lab)
        assert (found["level"], found["code"]) == ("FAIL", "pgbouncer.console")
        assert "several processes may share its port (so_reuseport = 1)" in found["message"]
        config = lab.gateway.path(CONFIG_FILE)
        at_socket = f"'host=/run/postgresql port=6432 user={ADMIN}'"
        config.write_text(re.sub(r"\[app\], on: \[.*?\]}", f"[app], on: [{at_socket}]}}", config.read_text()))
        assert findings(lab) == []


def log(lab: Lab) -> str:
    return lab.gateway.log("worker")


@pytest.mark.parametrize("how", ["stopped", "unplugged"])
def test_clients_write_through_both_after_a_failover(pooled: Pooled, how: str) -> None:
    lab = pooled.lab
    ways = {"near": pooled.near.way, "far": pooled.far.way}
    clients = [lab.start_client(name=name, way=way) for name, way in ways.items()]
    dsn = f"{pooled.near.way} user=app dbname=app"
    hanging = lab.app.start("psql", "-XAtqc", "select pg_sleep(3000)", dsn, user="postgres", log="hanging")
    wait_for(
        lambda: (
            "pg_sleep"
            in lab.db1.sql(
                "select string_agg(query, '') from pg_stat_activity where state = 'active' and usename = 'app'"
            )
        ),
        "the query",
    )
    lab.db1.pg_ctl("stop", "-m", "immediate") if how == "stopped" else lab.unplug(lab.db1)
    wait_for(lambda: led_to(lab, lab.db2), "the app port to lead to db2")
    opened = time.time()
    for client in clients:
        client.wait_for_write(opened)
    assert hanging.wait(60) != 0, "it waits for a node that is gone"
    backends = "select string_agg(pid::text, ' ') from pg_stat_activity where usename = 'app'"
    for pooler in (pooled.near, pooled.far):
        wait_for(lambda p=pooler: set(p.servers()) <= set(lab.db2.sql(backends).split()), "a pool of db2's alone")
    wait_for(lambda: failover_handled(lab), "the end of the run")


def test_a_switchover_in_which_clients_are_held_fails_no_write(pooled: Pooled) -> None:
    """The run that leads the port to the new primary lets them go on: nobody else has to."""
    lab = pooled.lab
    three.start_ssh(lab)
    clients = [
        lab.start_client(name=name, way=pooler.way) for name, pooler in (("near", pooled.near), ("far", pooled.far))
    ]
    held = hold(lab, LONG)
    begun = time.time()
    lab.db2.run("repmgr", "-f", "/etc/repmgr/db2.conf", "standby", "switchover", user="postgres", limit=120)
    for client in clients:
        client.wait_for_write(begun + 0.5)
        assert [write for write in client.writes() if write.row is None] == []
    assert led_to(lab, lab.db2)
    wait_for(lambda: "resume app on PgBouncer" in log(lab), "the run to say so")
    held.kill()
    wait_for(pooled.go_on, "the record to go")


def test_a_hold_is_taken_back_when_the_command_is_killed(pooled: Pooled) -> None:
    lab = pooled.lab
    client = lab.start_client(way=pooled.near.way)
    held = hold(lab, LONG)
    assert pooled.near.paused()
    assert pooled.far.paused()
    time.sleep(7)
    assert pooled.near.paused(), "a look while nothing has happened"
    held.kill()
    killed = time.time()
    client.wait_for_write(killed)
    wait_for(pooled.go_on, "the clients to go on")
    wait_for(lambda: "which held them, is gone" in log(lab), "the service to say so")
    wait_for(lambda: "which held them, is gone" in lab.gateway.hooks("history").stdout, "history to say so")
    assert [write for write in client.writes() if write.row is None] == []


def test_a_hold_is_taken_back_when_its_limit_is_over(pooled: Pooled) -> None:
    """It stays written down, as one that is over, as long as its holder lives: that may hold somebody late."""
    held = hold(pooled.lab, 3)
    wait_for(lambda: "its limit of 3 s is over" in log(pooled.lab), "the service to take it back")
    assert not (pooled.near.paused() or pooled.far.paused())
    assert held.process.poll() is None
    held.kill()
    wait_for(pooled.go_on, "the record to go")


def test_a_hold_is_taken_back_when_the_service_and_the_command_are_killed(pooled: Pooled) -> None:
    """And the journal cannot be read, and no primary is known."""
    lab = pooled.lab
    lab.stop_repmgrd()
    held = hold(lab, LONG)
    kill_worker(lab, signal.SIGKILL)
    held.kill()
    lab.db1.pg_ctl("stop", "-m", "immediate")
    lab.gateway.path("/var/lib/repmgr-hooks/journal.db").write_bytes(b"no journal " * 1000)
    assert pooled.near.paused()
    lab.start_worker()
    wait_for(pooled.go_on, "the clients to go on")


def test_a_hold_of_the_last_boot_is_over(pooled: Pooled) -> None:
    lab = pooled.lab
    held = hold(lab, LONG)
    kill_worker(lab, signal.SIGKILL)
    record = lab.gateway.path(RECORD)
    text = record.read_text()
    boot = lab.gateway.run("cat", "/proc/sys/kernel/random/boot_id").strip()
    assert boot in text
    record.write_text(text.replace(boot, "another"))
    lab.start_worker()
    wait_for(pooled.go_on, "the clients to go on")
    wait_for(lambda: "the host was started anew" in log(lab), "the service to say so")
    held.kill()


def test_a_record_that_holds_something_else_lets_all_go_on(pooled: Pooled) -> None:
    lab = pooled.lab
    held = hold(lab, LONG)
    lab.gateway.path(RECORD).write_text("{")
    wait_for(pooled.go_on, "the clients to go on")
    held.kill()


def test_one_that_hangs_holds_up_nobody_and_goes_on_when_it_is_back(pooled: Pooled) -> None:
    lab = pooled.lab
    far = lab.start_client(way=pooled.far.way)
    held = hold(lab, LONG)
    pooled.near.signal(signal.SIGSTOP)
    held.kill()
    killed = time.time()
    far.wait_for_write(killed)
    wait_for(lambda: "PgBouncer 10.0.0.20:6432: no answer within" in log(lab), "somebody to be told")
    lab.db1.pg_ctl("stop", "-m", "immediate")
    wait_for(lambda: led_to(lab, lab.db2), "the app port to lead to db2")
    far.wait_for_write(time.time())
    pooled.near.signal(signal.SIGCONT)
    wait_for(pooled.go_on, "the clients of the other to go on")
    near = lab.start_client(name="near", way=pooled.near.way)
    near.stop()


def test_one_that_is_dead_or_started_anew_during_a_hold(pooled: Pooled) -> None:
    """A restart forgets PAUSE; one that is dead is not waited for, and named."""
    lab = pooled.lab
    held = hold(lab, LONG)
    pooled.far.signal(signal.SIGKILL)
    pooled.near.signal(signal.SIGKILL)
    pooled.near.start()
    assert not pooled.near.paused()
    held.kill()
    wait_for(
        lambda: "taken back, because" in log(lab) and "PgBouncer 10.0.0.30:6433: Connection refused" in log(lab), "it"
    )
    assert lab.gateway.path(RECORD).exists()
    pooled.far.start()
    wait_for(pooled.go_on, "nobody to be held")


def test_what_a_dba_has_paused_is_named_and_left_alone(pooled: Pooled) -> None:
    lab = pooled.lab
    pooled.near.ask("PAUSE app")
    held = hold(lab, LONG)
    assert "PgBouncer 10.0.0.20:6432: database app is paused, and not by us" in held.said()
    held.kill()
    wait_for(lambda: not pooled.far.paused(), "ours to be taken back")
    wait_for(lambda: "database app is paused, and not by us" in log(lab), "it to be named")
    assert pooled.near.paused()
    pooled.near.ask("RESUME app")
    pooled.near.ask("PAUSE")
    held = hold(lab, LONG)
    assert re.search("already (suspended/)?paused", held.said())  # PgBouncer 1.18, and 1.26
    held.kill()
    wait_for(lambda: not pooled.far.paused(), "ours to be taken back")
    assert pooled.near.ask("RESUME") == [], "it was still paused as a whole"


def test_an_open_transaction_is_named(pooled: Pooled) -> None:
    lab = pooled.lab
    dsn = f"{pooled.near.way} user=app dbname=app application_name=invoices"
    statement = "begin; select pg_sleep(3000)"
    lab.app.start("psql", "-XAtqc", statement, dsn, user="postgres", log="open")
    wait_for(pooled.near.servers, "the transaction")
    held = hold(lab, LONG, patience=3)
    assert "not finished within 3 s: it waits for database app, user app, client 10.0.0.30 (invoices)" in held.said()
    held.kill()
    wait_for(pooled.go_on, "the clients to go on")


def test_a_wrong_password_is_said(pooled: Pooled) -> None:
    lab = pooled.lab
    place = lab.gateway.path(PASSFILE)
    place.write_text(place.read_text().replace(lab.passwords["repmgr_hooks"], "wrong"))
    kill_worker(lab, signal.SIGTERM)
    lab.start_worker()
    wait_for(lambda: "PgBouncer 10.0.0.20:6432: " in log(lab), "it to be said")
    assert "wrong" not in log(lab)


def findings(lab: Lab) -> list[dict[str, str]]:
    """What check says of PgBouncers, but what is well."""
    said = json.loads(lab.gateway.hooks("check", "--json").stdout)
    return [found for found in said if found["code"].startswith("pgbouncer") and found["level"] != "OK"]


def test_what_check_says_is_typed(pooled: Pooled) -> None:
    lab = pooled.lab
    assert findings(lab) == []
    for pooler, old, new in (
        (pooled.near, "pool_mode = transaction", "pool_mode = session\nquery_wait_timeout = 20"),
        (pooled.near, "server_login_retry = 1", "server_login_retry = 15"),
        (pooled.near, "app = host=10.0.0.20 port=54322", "app = host=10.0.0.11 port=5432"),
        (pooled.far, "admin_users = repmgr_hooks", "admin_users = postgres"),
    ):
        place = pooler.host.path(f"/etc/pgbouncer/{pooler.name}.ini")
        assert old in place.read_text()
        place.write_text(place.read_text().replace(old, new))
        pooler.signal(signal.SIGHUP)
    wait_for(lambda: len(findings(lab)) == 5, "all of it to be found")
    found = findings(lab)
    codes = {"console", "database", "mode", "patience", "retry"}
    assert {finding["code"].removeprefix("pgbouncer.") for finding in found} == codes
    for finding in found:
        type_in(lab, finding["hint"], finding["where"])
    wait_for(lambda: findings(lab) == [], "what was typed to help")
    pooled.far.signal(signal.SIGKILL)
    wait_for(lambda: [finding["code"] for finding in findings(lab)] == ["pgbouncer.console"], "it to be missed")
    said = lab.gateway.hooks("status").stdout
    assert "PgBouncer 10.0.0.20:6432: app\n" in said
    assert "PgBouncer 10.0.0.30:6433: no answer" in said


def test_without_resets_no_pooled_connection_is_used_again(pooled: Pooled) -> None:
    """Nothing tells PgBouncer that they are dead: RECONNECT drops the idle ones, and KILL_CLIENT one that hangs."""
    lab, near = pooled.lab, pooled.near
    config = lab.gateway.path("/etc/repmgr-hooks/config.yaml")
    config.write_text(config.read_text().replace("backend: iptables", "reset_clients: false\n      backend: iptables"))
    kill_worker(lab, signal.SIGTERM)
    lab.start_worker()
    dsn = f"{near.way} user=app dbname=app connect_timeout=10"
    sleepers = [
        lab.app.start("psql", "-XAtqc", f"select pg_sleep({seconds})", dsn, user="postgres", log="sleeper")
        for seconds in (3000, 3001, 3001, 3001)
    ]
    asleep = "from pg_stat_activity where state = 'active' and query = 'select pg_sleep({})'"
    wait_for(lambda: lab.db1.sql(f"select count(*) {asleep.format(3000)}") == "1", "the first")
    wait_for(lambda: lab.db1.sql(f"select count(*) {asleep.format(3001)}") == "3", "a pool")
    lab.db1.sql(f"select pg_cancel_backend(pid) {asleep.format(3001)}")
    for sleeper in sleepers[1:]:
        sleeper.wait(60)
    assert len(near.servers()) == 4
    lab.unplug(lab.db1)
    wait_for(lambda: led_to(lab, lab.db2), "the app port to lead to db2", 120)
    wait_for(lambda: f"reconnect app on PgBouncer {lab.gateway.address}:6432" in log(lab), "the pool to be dropped")
    for _ in range(4):
        result = lab.app.result("psql", "-XAtqc", "insert into work default values", dsn, user="postgres", limit=60)
        assert result.returncode == 0, result.stderr
    if near.version() >= KILLS_CLIENTS:
        assert sleepers[0].wait(60) != 0
        wait_for(lambda: "end a client of PgBouncer" in log(lab), "the service to say so")
