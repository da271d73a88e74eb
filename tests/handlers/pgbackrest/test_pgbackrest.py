"""A repository that a WAL file reaches two seconds after it was closed."""

from __future__ import annotations

from typing import Any

import repmgr_hooks_pgbackrest

from repmgr_hooks.system.steps import Program, Rows, Sql
from repmgr_hooks.testing import ScriptedHost

pytest_plugins = ["repmgr_hooks.testing.plugin"]


class Repository(ScriptedHost):
    def __init__(self) -> None:
        super().__init__()
        self.timelines = [7]
        self.programs = {"pgbackrest": self.list}
        self.statements = {
            repmgr_hooks_pgbackrest.SWITCH: self.switch,
            repmgr_hooks_pgbackrest.FAILED: lambda sql: [],
        }

    def list(self, program: Program) -> str:
        assert self.state
        names = [f"{timeline:08X}0000000000000005-{'0f' * 20}.gz" for timeline in self.timelines]
        return "".join(f"15-1/{n[:16]}/{n}\n" for n in names if int(n[:8], 16) == self.state.timeline)

    def switch(self, sql: Sql) -> Rows:
        assert self.state
        assert sql.node == self.state.primary
        timeline = self.state.timeline
        self.at(self.now() + 2, lambda: self.timelines.append(timeline))
        return [("", "0/6000000")]

    def wrong(self) -> str:
        assert self.state
        return "" if self.state.timeline in self.timelines else f"timeline {self.state.timeline} is missing"


def test_pgbackrest(handler_check: Any) -> None:
    handler_check(repmgr_hooks_pgbackrest, {"stanza": "main"}, Repository)
