"""Barman on another host: a login there takes longer than what is run, so a failover needs as few as can be."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path

import pytest

from repmgr_hooks import config
from repmgr_hooks.engine.dispatcher import handle
from repmgr_hooks.engine.routes import ManagedCluster
from repmgr_hooks.event import Event
from repmgr_hooks.settings.cluster import Barman
from repmgr_hooks.system.steps import Program
from tests.fake import FakeHost

MAIN = config.load(Path(__file__).resolve().parents[3] / "config/config.yaml").clusters["main"]
BACKUP = ("ssh", "barman@backup")
LIMIT = 60.0


def elsewhere(host: FakeHost) -> ManagedCluster:
    """The cluster of ``config.yaml`` whose Barman is on another host, which takes words as ssh does."""
    settings = MAIN.cluster.barman
    assert isinstance(settings, Barman)

    def ssh(program: Program) -> str:
        words = shlex.split(" ".join(program.argv[len(BACKUP) :]))
        words = words[2:] if words[:2] == ["env", "LC_ALL=C"] else words
        return host.run(replace(program, argv=tuple(words), over=()), LIMIT)

    host.programs["ssh"] = ssh
    there: ManagedCluster = replace(
        MAIN, cluster=replace(MAIN.cluster, barman=replace(settings, command=(*BACKUP, "barman")))
    )
    return there


@pytest.mark.parametrize("hangs", [False, True], ids=["the receiver has ended", "it hangs"])
def test_a_failover_needs_a_login_for_what_it_changes_and_none_for_a_look(hangs: bool) -> None:
    host = FakeHost()
    managed = elsewhere(host)
    host.fail_over()
    host.barman.receiver_hangs = hangs
    done = handle(managed, host, [Event(2, "repmgrd_failover_promote")])
    assert done.ok, done.message
    there = [program for program in host.ran if program.argv[0] == "ssh"]
    assert all(program.over in ((), BACKUP) for program in there)
    changes = [" ".join(program.argv[2:]) for program in there if not program.over]
    stop = ["barman receive-wal --stop main_backup"] if hangs else []
    assert changes == [*stop, "barman -q receive-wal main_backup"]
    assert len(there) > 2 * len(changes), "it has looked"
    asked = [program for program in there if "barman" in program.argv and program.over]
    assert [program.argv[3:] for program in asked] == [("show-server", "main_backup")], (
        "it tells the words that stop one"
    )


def test_only_barman_on_another_host_is_looked_at_over_a_login() -> None:
    host = FakeHost()
    host.fail_over()
    assert handle(MAIN, host, [Event(2, "repmgrd_failover_promote")]).ok
    assert not any(program.over for program in host.ran)
