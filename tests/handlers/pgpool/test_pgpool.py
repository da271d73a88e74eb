"""A pgpool as pgpool-II 4.3 is: answers 0 whatever happens, and finds its primary anew when it loses one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import repmgr_hooks_pgpool

from repmgr_hooks.system.steps import Program
from repmgr_hooks.testing import ScriptedHost

pytest_plugins = ["repmgr_hooks.testing.plugin"]
HOSTS = ("10.0.0.11", "10.0.0.12")


@dataclass
class Backend:
    attached: bool = True
    primary: bool = False

    def __str__(self) -> str:
        return f"5432 {1 if self.attached else 3} -nan waiting unknown {'primary' if self.primary else 'standby'} x"


class Pgpool(ScriptedHost):
    def __init__(self) -> None:
        super().__init__()
        self.backends = [Backend(primary=True), Backend()]
        self.programs = {"pcp_node_info": self.info, "pcp_attach_node": self.attach, "pcp_detach_node": self.detach}

    def info(self, program: Program) -> str:
        lines = [f"{host} {backend}\n" for host, backend in zip(HOSTS, self.backends, strict=True)]
        return "".join(lines) if program.argv[-1] == "-a" else lines[int(program.argv[-1])]

    def attach(self, program: Program) -> str:
        self.backends[int(program.argv[-1])].attached = True
        return "pcp_attach_node -- Command Successful\n"

    def detach(self, program: Program) -> str:
        assert self.state
        number = int(program.argv[-1])
        if not self.backends[number].attached:
            return ""
        self.backends[number].attached = False
        for other, backend in enumerate(self.backends):
            backend.primary = backend.attached and other + 1 == self.state.primary
        return "pcp_detach_node -- Command Successful\n"

    def wrong(self) -> str:
        assert self.state
        wanted = [
            (node == self.state.primary or (there.reachable and there.in_recovery), node == self.state.primary)
            for node, there in self.state.states.items()
        ]
        got = [(backend.attached, backend.primary) for backend in self.backends]
        return "" if got == wanted else f"attached and primary are {got}, not {wanted}"


def test_pgpool(handler_check: Any) -> None:
    options = {"host": "10.0.0.20", "user": "hooks", "passfile": "/etc/pcppass"}
    handler_check(repmgr_hooks_pgpool, options, Pgpool)
