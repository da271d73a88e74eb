"""A program of the user's: what it is told, and how."""

from __future__ import annotations

import json
import sys

import pytest

from repmgr_hooks.cluster.notice import Notice
from repmgr_hooks.event import Event
from repmgr_hooks.handlers import command
from repmgr_hooks.handlers.command import Config
from repmgr_hooks.settings.cluster import Cluster, Gateway, Node
from repmgr_hooks.settings.schema import TrustedProgram
from repmgr_hooks.system.host import LocalHost
from repmgr_hooks.system.steps import Program

CLUSTER = Cluster(
    {1: Node("10.0.0.11"), 2: Node("10.0.0.12", port=5433)}, Gateway("10.0.0.20", {"app": 54322}), name="main"
)
EVENT = Event(2, "repmgrd_failover_promote", True, 1, "2026-11-20 03:00:00+00")
PAGE = Config(("/usr/local/bin/page", "dba team", "$(reboot)"), timeout=12)


def program(event: Event | None) -> Program:
    """The program of the one step."""
    (step,) = command.plan(PAGE, Notice(CLUSTER, event, 2, 5, {}, 1), None)
    assert (step.what, step.limit, step.until) == ("run page", 12, None)
    assert isinstance(step.do, Program)
    return step.do


def test_the_arguments_are_those_of_the_file() -> None:
    assert program(EVENT).argv == ("/usr/local/bin/page", "dba team", "$(reboot)")


def test_the_event_comes_as_one_line_of_json() -> None:
    stdin = program(EVENT).stdin
    assert stdin.endswith("}\n")
    assert stdin.count("\n") == 1
    assert json.loads(stdin) == {
        "cluster": "main",
        "primary": 2,
        "primary_host": "10.0.0.12",
        "primary_port": 5433,
        "timeline": 5,
        "old_primary": 1,
        "old_primary_host": "10.0.0.11",
        "old_primary_port": 5432,
        "contradicts": False,
        "event": {
            "node": 2,
            "name": "repmgrd_failover_promote",
            "success": True,
            "other_node": 1,
            "timestamp": "2026-11-20 03:00:00+00",
        },
    }


def test_the_event_comes_in_the_environment() -> None:
    assert program(EVENT).env == {
        "REPMGR_HOOKS_CLUSTER": "main",
        "REPMGR_HOOKS_PRIMARY": "2",
        "REPMGR_HOOKS_PRIMARY_HOST": "10.0.0.12",
        "REPMGR_HOOKS_PRIMARY_PORT": "5433",
        "REPMGR_HOOKS_OLD_PRIMARY": "1",
        "REPMGR_HOOKS_OLD_PRIMARY_HOST": "10.0.0.11",
        "REPMGR_HOOKS_OLD_PRIMARY_PORT": "5432",
        "REPMGR_HOOKS_CONTRADICTS": "",
        "REPMGR_HOOKS_EVENT": "repmgrd_failover_promote",
        "REPMGR_HOOKS_NODE": "2",
        "REPMGR_HOOKS_SUCCESS": "1",
    }


def test_what_is_not_known_is_null_or_empty() -> None:
    (step,) = command.plan(PAGE, Notice(CLUSTER, EVENT, None, 0, {}, None), None)
    assert isinstance(step.do, Program)
    said = json.loads(step.do.stdin)
    assert [said[name] for name in ("primary", "primary_host", "primary_port", "timeline", "old_primary")] == [None] * 5
    assert (step.do.env["REPMGR_HOOKS_PRIMARY"], step.do.env["REPMGR_HOOKS_OLD_PRIMARY_HOST"]) == ("", "")


def test_without_an_event() -> None:
    told = program(None)
    assert json.loads(told.stdin)["event"] is None
    assert (told.env["REPMGR_HOOKS_EVENT"], told.env["REPMGR_HOOKS_NODE"]) == ("", "")
    assert all(isinstance(value, str) for value in told.env.values())


def test_a_real_program_gets_all_of_it() -> None:
    script = "import json, os, sys; print(json.load(sys.stdin)['event']['name'], os.environ['REPMGR_HOOKS_PRIMARY'])"
    config = Config((sys.executable, "-c", script))
    (step,) = command.plan(config, Notice(CLUSTER, EVENT, 2, 5, {}, 1), None)
    assert isinstance(step.do, Program)
    assert LocalHost({}).run(step.do, 20) == "repmgrd_failover_promote 2\n"


def test_there_is_nothing_to_look_at() -> None:
    assert command.observe is None


@pytest.mark.parametrize(
    ("run", "fine"),
    [
        (("/bin/true",), True),
        (("/bin/true", "x"), True),
        ((), False),
        (("true",), False),
        (("./true",), False),
        (("",), False),
    ],
)
def test_a_program_is_named_by_its_absolute_path(run: tuple[str, ...], fine: bool) -> None:
    wrong = TrustedProgram().problem(run)
    assert str(wrong) == ("None" if fine else "must be a list that begins with the absolute path of a program")
