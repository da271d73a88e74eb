"""What `check` says: one finding a line, with what to do about it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from repmgr_hooks.errors import hint_lines
from repmgr_hooks.text import printable

Level = Literal["OK", "WARN", "FAIL"]
LEVELS: tuple[Level, ...] = ("FAIL", "WARN", "OK")
NAGIOS = {"OK": 0, "WARNING": 1, "CRITICAL": 2, "UNKNOWN": 3}
"""The exit codes that monitoring plug-ins have."""


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at. ``hint`` is what to do about it, empty if nothing.

    ``code`` names what was looked at, ``where`` the cluster, node or file; together they stay the same.
    """

    level: Level
    message: str
    hint: str = ""
    code: str = ""
    where: str = ""

    def __post_init__(self) -> None:
        for name in ("message", "hint"):  # either may repeat what a program has said
            object.__setattr__(self, name, printable(getattr(self, name)))

    def __str__(self) -> str:
        place = f"{self.where}: " if self.where else ""
        line = f"{self.level:4}  {self.code:18}  {place}{self.message}"
        return "\n      ".join([line, *hint_lines(self.hint)])


@dataclass(frozen=True)
class Topic:
    """Makes the findings about one thing."""

    code: str
    where: str = ""

    def ok(self, message: str) -> Finding:
        return Finding("OK", message, "", self.code, self.where)

    def warn(self, message: str, hint: str) -> Finding:
        return Finding("WARN", message, hint, self.code, self.where)

    def fail(self, message: str, hint: str) -> Finding:
        return Finding("FAIL", message, hint, self.code, self.where)


def bad(findings: Sequence[Finding], level: Level = "FAIL") -> bool:
    """True if a finding has this level."""
    return any(finding.level == level for finding in findings)


def lines(findings: Sequence[Finding]) -> list[str]:
    """Return the lines for the screen: what is wrong first, a summary last."""
    return [*map(str, by_weight(findings)), summary(findings)]


def by_weight(findings: Sequence[Finding]) -> list[Finding]:
    """Sort what is wrong before what is well, and then by subject."""
    return sorted(findings, key=lambda finding: (LEVELS.index(finding.level), finding.code.partition(".")[0]))


def summary(findings: Sequence[Finding]) -> str:
    """Count the levels.

    >>> summary([Finding("OK", "well"), Finding("WARN", "so-so")])
    '0 FAIL, 1 WARN, 1 OK'
    """
    return ", ".join(f"{count} {level}" for level, count in _counts(findings).items())


def _counts(findings: Sequence[Finding]) -> dict[Level, int]:
    return {level: sum(finding.level == level for finding in findings) for level in LEVELS}


def as_dicts(findings: Sequence[Finding]) -> list[dict[str, str]]:
    """Return the same as plain data."""
    return [
        {"level": f.level, "code": f.code, "where": f.where, "message": f.message, "hint": f.hint}
        for f in by_weight(findings)
    ]


def nagios(findings: Sequence[Finding]) -> tuple[str, int]:
    """Return one line and the exit code, as the Monitoring Plugins Development Guidelines ask for.

    >>> nagios([Finding("OK", "well"), Finding("WARN", "so|so", "", "kernel.nat", "main")])
    ('REPMGR_HOOKS WARNING - 0 FAIL, 1 WARN, 1 OK: kernel.nat main: so/so | fail=0 warn=1 ok=1', 1)
    """
    state = "CRITICAL" if bad(findings) else "WARNING" if bad(findings, "WARN") else "OK"
    wrong = [f"{found.code} {found.where}: {found.message}" for found in by_weight(findings) if found.level != "OK"]
    text = ": ".join([summary(findings), *(["; ".join(wrong)] if wrong else [])])
    numbers = " ".join(f"{level.lower()}={count}" for level, count in _counts(findings).items())
    return f"{nagios_line(state, text)} | {numbers}", NAGIOS[state]


def nagios_line(state: str, text: str) -> str:
    """Return the part of the line that people read: no line break, and no bar, behind which the numbers stand."""
    return f"REPMGR_HOOKS {state} - {' '.join(text.replace('|', '/').split())}"
