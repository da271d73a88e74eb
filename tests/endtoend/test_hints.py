"""Every hint of `check`'s that can be typed is typed, as it stands, and then all is well: several faults at a time.

What else is typed, and what cannot be: ``tests/hints.py``.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager as Context

import pytest

from tests.endtoend import test_check
from tests.endtoend.test_check import CONFIG, REPMGR, SERVER, edited, healthy
from tests.endtoend.typist import type_in
from tests.lab import Lab, versions, wait_for, wait_for_answer

__all__ = ["healthy"]
MOST_ROUNDS = 4
"""What one fault hides comes to light when it is gone."""


@contextlib.contextmanager
def slot_left_on_the_standby(lab: Lab) -> Iterator[None]:
    lab.db2.sql("select pg_create_physical_replication_slot('barman', true)")
    yield


@contextlib.contextmanager
def service_down(lab: Lab) -> Iterator[None]:
    lab.daemons["worker"].terminate()
    lab.daemons["worker"].wait(60)
    yield


@contextlib.contextmanager
def barman_inactive(lab: Lab) -> Iterator[None]:
    with edited(lab.gateway, SERVER, "slot_name = barman", "active = off\nslot_name = barman"):
        yield


@contextlib.contextmanager
def repmgrd_that_looks_seldom(lab: Lab) -> Iterator[None]:
    with edited(lab.gateway, REPMGR, "monitor_interval_secs=1\n", "monitor_interval_secs=30\n"):
        yield


@contextlib.contextmanager
def promote_command_of_another_layout(lab: Lab) -> Iterator[None]:
    with edited(lab.gateway, REPMGR, "'/usr/bin/repmgr standby promote", "'/usr/pgsql-9/bin/repmgr standby promote"):
        yield


@contextlib.contextmanager
def slots_that_nobody_advances(lab: Lab) -> Iterator[None]:
    with (
        edited(lab.gateway, CONFIG, "monitor_interval: 3600", "monitor_interval: 0"),
        edited(lab.gateway, CONFIG, "state: absent", "state: synced"),
    ):
        yield


@contextlib.contextmanager
def primary_that_repmgr_does_not_know(lab: Lab) -> Iterator[None]:
    lab.db1.sql("update repmgr.nodes set active = false where node_id = 1", "repmgr")
    yield


OTHERS = {fault.__name__: fault for fault, _ in test_check.FAULTS}
GROUPS: list[tuple[list[str | Callable[[Lab], Context[None]]], set[str]]] = [
    (
        [
            "configuration_that_the_hook_cannot_read",
            "spool_open_to_everybody",
            "program_that_others_can_write",
            "barmans_pgpass_with_wrong_mode",
            "passfile_with_wrong_mode",
            "repmgr_conf_of_another_owner",
            "notification_line_of_another_cluster",
            "no_line_in_sudoers",
            "forwarding_off",
        ],
        {
            *("files.config", "files.spool", "files.program", "barman.passfile", "files.passfile"),
            *("repmgr.conf", "repmgr.line", "service.sudo", "kernel.forwarding"),
        },
    ),
    (
        [
            "state_directory_that_others_can_write",
            "spool_closed_to_repmgrd",
            "journal_of_another_owner",
            "program_that_the_service_cannot_run",
            "placeholder_without_quotes",
            "followers_that_do_not_wait",
            "chain_flushed_by_another_tool",
            "passfile_with_wrong_owner",
        ],
        {
            *("files.state", "files.spool", "files.journal", "files.command", "repmgr.line", "repmgr.timeout"),
            *("kernel.chains", "files.passfile"),
        },
    ),
    (
        [
            "filter_too_narrow",
            "node_that_lets_us_not_in",
            "a_name_that_leads_nowhere",
            "slot_that_may_fill_the_disk",
            "standby_that_connects_seldom",
            "barman_goes_past_the_gateway",
            "barman_without_keepalives",
            "slot_of_another_name",
            "nothing_is_let_through",
            slot_left_on_the_standby,
            repmgrd_that_looks_seldom,
        ],
        {
            *(
                "repmgr.filter",
                "nodes.answer",
                "nodes.name",
                "nodes.wal",
                "nodes.retry",
                "barman.conninfo",
                "barman.keepalives",
                "barman.slot",
            ),
            *("rules.foreign", "repmgr.interval", "routes.state"),
        },
    ),
    (
        [
            "details_in_the_notification_line",
            "missing_grant",
            "slot_limit_reached",
            "node_that_repmgr_holds_for_dead",
            "barman_that_cleans_up_its_locks",
            "a_password_for_whoever_answers",
            barman_inactive,
            service_down,
        ],
        {
            *("repmgr.shell", "nodes.rights", "nodes.slots", "nodes.registered", "barman.locks"),
            *("nodes.password", "barman.active", "service.running"),
        },
    ),
    (
        [
            "no_notification_line",
            "node_missing_from_the_configuration",
            "forgotten_pause",
            "repmgrd_paused",
            primary_that_repmgr_does_not_know,
            promote_command_of_another_layout,
        ],
        {"repmgr.line", "repmgr.commands", "nodes.registered", "nodes.failover", "service.paused"},
    ),
    ([slots_that_nobody_advances], {"config.interval"}),
]


@contextlib.contextmanager
def as_before(lab: Lab, *places: str) -> Iterator[None]:
    """What is typed into files of the gateway does not stay."""
    before = {lab.gateway.path(place): lab.gateway.path(place).read_text() for place in places}
    yield
    for path, text in before.items():
        path.write_text(text)


def looked(lab: Lab, *options: str) -> list[dict[str, str]]:
    """What is not well."""
    findings = json.loads(lab.gateway.hooks("check", "--json", *options).stdout)
    return [finding for finding in findings if finding["level"] != "OK"]


@pytest.mark.parametrize(("faults", "expected"), GROUPS)
def test_what_is_printed_is_typed(
    healthy: Lab, faults: list[str | Callable[[Lab], Context[None]]], expected: set[str]
) -> None:
    seen: set[str] = set()
    failed: AssertionError | None = None
    with as_before(healthy, CONFIG, SERVER, REPMGR, "/etc/barman.conf"), contextlib.ExitStack() as stack:
        for fault in faults:
            stack.enter_context((OTHERS[fault] if isinstance(fault, str) else fault)(healthy))
        try:
            type_all(healthy, seen)
        except AssertionError as error:  # the faults do not expect one
            failed = error
    wait_for(lambda: healthy.gateway.hooks("reconcile").returncode == 0, "nothing to be left to do")
    if failed:
        raise failed
    assert seen >= expected
    wait_for(lambda: looked(healthy) == [], "all to be well without the faults", every=2)


@pytest.mark.parametrize(
    ("setting", "value", "since", "code"),
    [
        ("synchronized_standby_slots", "barman", 17, "nodes.logical"),
        ("summarize_wal", "on", 17, "nodes.summaries"),
        ("idle_replication_slot_timeout", "1d", 18, "nodes.idle_slots"),
    ],
)
def test_a_setting_that_newer_versions_of_postgresql_have(
    healthy: Lab, setting: str, value: str, since: int, code: str
) -> None:
    if int(versions.POSTGRESQL) < since:
        pytest.skip(f"PostgreSQL {since} and newer have {setting}")
    healthy.db1.sql(f"alter system set {setting} = '{value}'")
    healthy.db1.pg_ctl("reload")
    seen: set[str] = set()
    try:
        wait_for(lambda: [finding["code"] for finding in looked(healthy)] == [code], f"{code} to be found", every=2)
        type_all(healthy, seen)
    finally:
        for database in healthy.databases:
            database.sql(f"alter system reset {setting}")
            database.pg_ctl("reload")
    assert seen == {code}


def test_a_backup_that_waits_for_wal_is_complete_at_once(healthy: Lab) -> None:
    if int(versions.POSTGRESQL) < 17 or healthy.barman >= (3, 20):
        pytest.skip(
            "PostgreSQL 17 and newer makes Barman before 3.20 wait for a file that an idle primary does not close"
        )
    healthy.gateway.barman("backup", "--immediate-checkpoint", "main_backup")
    (backup, *_) = healthy.gateway.barman("list-backup", "--minimal", "main_backup").split()
    (found,) = wait_for_answer(
        lambda: looked(healthy), lambda wrong: [each["code"] for each in wrong] == ["barman.backup"], "check to see it"
    )
    assert backup in found["message"]
    type_in(healthy, found["hint"], found["where"])
    wait_for(lambda: looked(healthy) == [], "all to be well", every=2)


def type_all(lab: Lab, seen: set[str]) -> None:
    """Look, and type what is printed, until nothing is; note the codes."""
    for _ in range(MOST_ROUNDS):
        wrong = looked(lab)
        seen |= {finding["code"] for finding in wrong}
        for finding in wrong:
            print(finding["code"], finding["where"], finding["message"], "HINT:", finding["hint"], sep=" | ")
            type_in(lab, finding["hint"], finding["where"])
        if not wrong:
            return
    wait_for(lambda: looked(lab) == [], "all to be well", every=2)
