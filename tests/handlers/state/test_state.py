"""A name in a DNS that takes three seconds to get around."""

from __future__ import annotations

from typing import Any

import repmgr_hooks_state

from repmgr_hooks.system.steps import Program
from repmgr_hooks.testing import ScriptedHost

pytest_plugins = ["repmgr_hooks.testing.plugin"]


class Dns(ScriptedHost):
    def __init__(self) -> None:
        super().__init__()
        self.address = ""
        self.programs = {"dig": lambda program: f"{self.address}\n", "nsupdate": self.update}

    def update(self, program: Program) -> str:
        self.at(self.now() + 3, lambda: setattr(self, "address", program.env["PRIMARY_HOST"]))
        return ""

    def wrong(self) -> str:
        assert self.state
        return "" if self.address == self.state.primary_host else f"the name leads to {self.address!r}"


def test_state(handler_check: Any) -> None:
    handler_check(repmgr_hooks_state, {"look": ["/usr/bin/dig", "db"], "make": ["/usr/bin/nsupdate"]}, Dns)
