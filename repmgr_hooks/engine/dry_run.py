"""The world after steps that nobody has taken: a dry run looks at it, so that each action builds on those before."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, cast

from repmgr_hooks.handlers.firewall import unquoted
from repmgr_hooks.system.steps import DropConnections, Host, Program, Step


class DryRunHost:
    """A world in which steps are imagined, as far as netfilter goes; nothing else is looked at by two actions."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._swaps: list[str] = []
        self._cut = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._host, name)

    def as_world(self) -> Host:
        """Return the same, for those who look."""
        return cast(Host, self)

    def imagine(self, steps: Iterable[Step]) -> None:
        """Let these be taken."""
        for step in steps:
            self._cut |= isinstance(step.do, DropConnections)
            if isinstance(step.do, Program) and step.do.argv[0].endswith("tables-restore"):
                self._swaps.append(step.do.stdin)

    def run(self, program: Program, limit: float) -> str:
        """Answer as a look would be answered then."""
        if program.argv[:2] == ("conntrack", "-L") and self._cut:
            return ""
        said = self._host.run(program, limit)
        if program.argv[0].endswith("tables-save"):
            for swap in self._swaps:
                said = restored(said, swap.splitlines())
        return said


def restored(saved: str, swap: Sequence[str]) -> str:
    """Return what ``iptables-save`` would print after ``iptables-restore --noflush``.

    >>> restored("*nat\\n-A a -j x\\n-A b -j y\\nCOMMIT", ["*nat", ":a - [0:0]", "-A a -j z", "COMMIT"])
    '*nat\\n-A b -j y\\n-A a -j z\\nCOMMIT'
    """
    flushed = tuple(f"-A {line[1:].split()[0]} " for line in swap if line.startswith(":"))
    removed = [unquoted(line.replace("-D ", "-A ", 1)) for line in swap if line.startswith("-D ")]
    rules = []
    for line in saved.splitlines():
        if unquoted(line) in removed:
            removed.remove(unquoted(line))
        elif not line.startswith(flushed) and line != "COMMIT":
            rules.append(line)
    return "\n".join([*rules, *(line for line in swap if line.startswith("-A ")), "COMMIT"])
