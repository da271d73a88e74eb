"""What a hold and a failover depend on in each PgBouncer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from repmgr_hooks import config
from repmgr_hooks.checks import pgbouncer
from repmgr_hooks.engine.routes import ManagedCluster
from repmgr_hooks.errors import OperationFailed
from repmgr_hooks.reports.pooled import pgbouncers
from tests.fake import FakeHost
from tests.fake_pgbouncer import FakePgBouncer
from tests.unit.conftest import CONFIG

OPEN = "- firewall: {open: app, fail_open_after: 120}"
NAME = "10.0.0.20:6432"


@pytest.fixture
def managed(tmp_path: Path) -> ManagedCluster:
    file = tmp_path / "config.yaml"
    text = CONFIG.replace("state_dir: /var/lib/repmgr-hooks", f"state_dir: {tmp_path}")
    action = "- pgbouncer: {databases: [app], on: host=10.0.0.20 user=hooks}"
    file.write_text(text.replace(OPEN, f"{OPEN}\n          {action}"))
    file.chmod(0o644)
    return config.load(file).clusters["main"]


def test_a_port_for_readers_is_not_where_an_application_is_sent(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    text = CONFIG.replace("state_dir: /var/lib/repmgr-hooks", f"state_dir: {tmp_path}")
    text = text.replace("app: 54322", "app: 54322, readers: 54323")
    action = "- pgbouncer: {databases: [app], on: host=10.0.0.20 user=hooks}"
    more = f"- firewall: {{open: readers, to: standbys}}\n          {action}"
    file.write_text(text.replace(OPEN, f"{OPEN}\n          {more}"))
    file.chmod(0o644)
    each = FakePgBouncer()
    each.databases.clear()
    found = list(pgbouncer.findings(config.load(file).clusters["main"], hosts(each)))
    assert [finding.hint.startswith(LINE) for finding in found if finding.code == "pgbouncer.database"] == [True]


def hosts(each: FakePgBouncer) -> FakeHost:
    host = FakeHost()
    host.pgbouncers = {NAME: each}
    return host


def test_all_is_well(managed: ManagedCluster) -> None:
    found = list(pgbouncer.findings(managed, hosts(FakePgBouncer())))
    assert {finding.level for finding in found} == {"OK"}
    assert found[0].message == "PgBouncer 1.18 answers, and hooks may PAUSE and RESUME"
    (pooled,) = pgbouncers(managed, None, hosts(FakePgBouncer()))
    assert str(pooled) == f"PgBouncer {NAME}: app"


def lead(each: FakePgBouncer, where: tuple[str, int]) -> None:
    each.databases["app"] = where


IN = "in its pgbouncer.ini, [pgbouncer]: "
LINE = "in its pgbouncer.ini, [databases]: app = host=10.0.0.20 port=54322; "
REJECTED = OperationFailed("PgBouncer: FATAL:  not allowed", code="rejected")
DEAD = OperationFailed("PgBouncer: Connection refused", code="no_answer")


@pytest.mark.parametrize(
    ("change", "level", "code", "hint"),
    [
        (lambda each: setattr(each, "failed", DEAD), "FAIL", "console", "on its host: systemctl start pgbouncer"),
        (lambda each: setattr(each, "failed", REJECTED), "FAIL", "console", f"{IN}admin_users = hooks; "),
        (lambda each: each.config.update(admin_users="dba"), "FAIL", "console", f"{IN}admin_users = dba, hooks; "),
        (lambda each: each.config.update(so_reuseport="1"), "FAIL", "console", "in 'on', name each process"),
        (lambda each: each.databases.clear(), "FAIL", "database", LINE),
        (lambda each: lead(each, ("10.0.0.11", 5432)), "WARN", "database", LINE),
        (lambda each: lead(each, ("", 0)), "WARN", "database", LINE),
        (lambda each: each.config.update(pool_mode="session"), "WARN", "mode", f"{IN}pool_mode = transaction; "),
        (lambda each: each.config.update(server_login_retry="15"), "WARN", "retry", f"{IN}server_login_retry = 1; "),
        (lambda each: each.config.update(query_wait_timeout="20"), "WARN", "patience", f"{IN}query_wait_timeout = 120"),
        (lambda each: each.config.update(query_timeout="5.5"), "WARN", "patience", f"{IN}query_timeout = 0; "),
    ],
)
def test_what_is_wrong(
    managed: ManagedCluster, change: Callable[[FakePgBouncer], None], level: str, code: str, hint: str
) -> None:
    each = FakePgBouncer()
    change(each)
    (found,) = (finding for finding in pgbouncer.findings(managed, hosts(each)) if finding.level != "OK")
    assert (found.level, found.code, found.where) == (level, f"pgbouncer.{code}", f"main {NAME}")
    assert found.hint.startswith(hint)


def test_clients_that_wait_for_ever_are_well(managed: ManagedCluster) -> None:
    each = FakePgBouncer()
    each.config["query_wait_timeout"] = "0"
    assert all(finding.level == "OK" for finding in pgbouncer.findings(managed, hosts(each)))


@pytest.mark.parametrize(
    ("paused", "databases", "said"),
    [({"app"}, {}, "app PAUSED, and not by us"), (set(), {"other": ("", 0)}, "app not known to it")],
)
def test_what_status_says(
    managed: ManagedCluster, paused: set[str], databases: dict[str, tuple[str, int]], said: str
) -> None:
    each = FakePgBouncer(paused=paused)
    each.databases = databases or each.databases
    (pooled,) = pgbouncers(managed, None, hosts(each))
    assert str(pooled) == f"PgBouncer {NAME}: {said}"
