"""What keeps repmgr from promoting a standby, as data; and the same in words."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from repmgr_hooks.cluster import repmgr_files
from repmgr_hooks.errors import Problem

NO_CONF = Path("/etc/repmgr.conf")


class Hindrance(Enum):
    """Why repmgr would not promote a standby: the reason in words, and the remedy."""

    SILENT = (
        "repmgrd of {nodes} does not watch the primary",
        "start its unit where it runs, or as postgres: {repmgrd} -f {conf}; its log says why it ended",
    )
    PAUSED = ("repmgrd of {nodes} is paused", "as postgres: {repmgr} -f {conf} service unpause")
    PRIORITY = (
        "{nodes} has priority 0 in repmgr.nodes",
        "priority=100 in its repmgr.conf, then there, as postgres: {repmgr} -f {conf} standby register --force",
    )
    INACTIVE = (
        "{nodes} is marked inactive in repmgr.nodes",
        "there, as postgres: {repmgr} -f {conf} standby register --force",
    )
    MANUAL = (
        "failover=manual, repmgr's default, for {nodes}",
        "failover=automatic in {conf}, then restart repmgrd; for one that is never to be promoted, priority=0 instead, "
        "then there, as postgres: {repmgr} -f {conf} standby register --force",
    )
    NO_COMMAND = (
        "no promote_command for {nodes}",
        "promote_command='{repmgr} standby promote -f {conf} --log-to-file' in {conf}, then restart repmgrd",
    )
    UNREGISTERED = (
        "{nodes} is not in repmgr.nodes",
        "there, as postgres: {repmgr} -f {conf} standby register",
    )
    CASCADED = (
        "{nodes} is registered below another node than the primary, and repmgrd promotes only one that follows that",
        "there, as postgres: {repmgr} -f {conf} standby follow --upstream-node-id={detail}",
    )
    LOCATION = (
        "{nodes} has another location than the primary ({detail}), and no other node that answers has the primary's",
        "the primary's location= in its repmgr.conf, then there, as postgres: {repmgr} -f {conf} standby register "
        "--force; or a witness in the primary's location",
    )
    MAJORITY = (
        "{nodes} would have no majority of the nodes that follow the primary: too few of them answer us",
        "make them answer; of one that is gone for good, as postgres: {repmgr} -f {conf} {detail}",
    )
    OTHER_PRIMARY = (
        "{detail} is out of recovery too, and repmgr would not promote {nodes} beside it",
        "if its address in the configuration is right, stop it before the primary fails; then rejoin or clone it",
    )
    REFUSED = ("repmgr refuses the repmgr.conf of {nodes}: {detail}", "correct {conf}, then start repmgrd")


MAY_BE_MEANT = frozenset(
    {
        *(Hindrance.PRIORITY, Hindrance.INACTIVE, Hindrance.MANUAL, Hindrance.NO_COMMAND),
        *(Hindrance.CASCADED, Hindrance.LOCATION, Hindrance.UNREGISTERED),
    }
)
"""No fault of a standby, such as one for reports, as long as another one would be promoted."""
WINS = "would win the election"
MAY_WIN = "wins the election if it has received more WAL than the others"


@dataclass(frozen=True)
class Obstacle:
    """What stands against a failover. ``nobody``: no standby would be promoted; ``votes``: what repmgr's election makes
    of a node that promotes nothing.
    """

    code: Hindrance
    nodes: tuple[int, ...]
    nobody: bool
    detail: str = ""
    conf: Path = NO_CONF
    votes: str = ""

    @property
    def hint(self) -> str:
        """The way out."""
        names = {name: repmgr_files.program(name) for name in ("repmgr", "repmgrd")}
        words: str = self.code.value[1]
        return words.format(conf=self.conf, detail=self.detail, **names)

    @property
    def problem(self) -> Problem:
        """The same in the form that is stored and sent."""
        return Problem(self.code.name.lower(), str(self), self.hint)

    def __str__(self) -> str:
        words: str = self.code.value[0]
        what = words.format(nodes=named(self.nodes), detail=self.detail) + (self.votes and f"; it {self.votes}")
        return f"no standby would be promoted: {what}" if self.nobody else what


def named(nodes: Iterable[int], word: str = " and ") -> str:
    """Put some nodes in words."""
    return word.join(f"node {node}" for node in nodes)
