"""Why a node is the primary, or none is known to be, as data; and the same in words."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from repmgr_hooks.errors import Problem


class ReasonCode(Enum):
    """What a reason says in words; and if something is wrong, what to do about it."""

    def __init__(self, words: str, hint: str = "") -> None:
        self.words, self.hint = words, hint

    # A primary is known.
    ONLY = ("the only node out of recovery",)
    NEWEST = ("the newest of several nodes out of recovery, and promoted by repmgr",)
    SO_FAR = ("the newest of several nodes out of recovery, and the primary so far",)
    KEPT = ("it was the primary or repmgr promoted it, and repmgr has promoted none that is newer",)
    # The primary is unknown.
    NOBODY = ("no node is out of recovery", "promote one")
    UNHEARD = (
        "no node is out of recovery, but there is no answer from {nodes}",
        "make {nodes} answer; promote a standby only if no other node can be a primary, and repmgrd does not do it",
    )
    SHUT_OUT = (
        "no node is out of recovery, but {nodes} does not let us in",
        "repmgr-hooks check says why; promote nothing while it runs",
    )
    FOREIGN = (
        "{nodes} does not have the cluster's system identifier",
        "correct its address; after a restore: repmgr-hooks reconcile --reset-state",
    )
    SYSTEMS = (
        "the nodes belong to different systems",
        "correct the addresses, or set 'system_identifier' in the configuration",
    )
    BEHIND = (
        "{nodes} is a primary on an older timeline than {timeline}, which was seen already",
        "make the newer primary reachable; after a restore: repmgr-hooks reconcile --reset-state",
    )
    TWINS = ("{nodes} are both primary on timeline {timeline}", "stop or rejoin all but one")
    UNCLEAR = ("{nodes} are out of recovery, and repmgr did not promote the newest", "stop or rejoin all but one")
    FOLLOWED = (
        "{nodes} was promoted, and not by repmgr, while a standby still receives WAL from the primary so far",
        "stop one of the two",
    )
    SWINGING = ("the primary has changed too often lately, now to {nodes}", "to follow it now: repmgr-hooks reconcile")
    AWAY = (
        "this gateway was away, nothing else shows that its last primary is still the one, and {nodes} does not answer",
        "make it answer, or start the other gateway; if you know that it is: repmgr-hooks reconcile",
    )
    # Beside a decision.
    STALE_PRIMARY = (
        "SPLIT-BRAIN: {nodes} is a stale primary (timeline {own} < {timeline})",
        "no port leads to {nodes}; stop it, and rejoin it: repmgr node rejoin",
    )
    BESIDE = (
        "{nodes} was promoted beside the primary, and not by repmgr",
        "no port leads to {nodes}; stop it, and rejoin it: repmgr node rejoin",
    )
    STRAY = (
        "{nodes} is in recovery on timeline {own}, on which no primary answers, and receives from nobody",
        "it may have what no other node has; only if it was promoted by mistake: stop it, and rejoin or clone it",
    )
    STRANGER = (
        "{nodes} does not have the cluster's system identifier",
        "no port leads to {nodes}; correct its address, or stop it and clone it: repmgr standby clone",
    )
    SILENT = ("{nodes} does not answer",)
    REJECTS = ("{nodes} answers, and does not let us in",)
    UNREGISTERED = (
        "{nodes} is in the configuration and not in repmgr.nodes",
        "register {nodes}, or remove it from the configuration",
    )
    UNCONFIGURED = (
        "{nodes} is in repmgr.nodes and not in the configuration: a promotion of it would not be followed",
        "add {nodes} to the configuration, or unregister it",
    )
    METADATA = ("repmgr.nodes does not name {nodes} as the one active primary", "see 'repmgr cluster show'")


@dataclass(frozen=True)
class Reason:
    """Why a decision is as it is, as data; ``str`` puts it in words. ``own``: the timeline of the node itself."""

    code: ReasonCode
    nodes: tuple[int, ...] = ()
    timeline: int = 0
    own: int = 0

    def __str__(self) -> str:
        return self._said(self.code.words)

    @property
    def hint(self) -> str:
        """What to do about it; empty if nothing is wrong."""
        return self._said(self.code.hint)

    @property
    def problem(self) -> Problem:
        """The same in a form that is stored and sent."""
        return Problem(self.code.name.lower(), str(self), self.hint)

    def _said(self, words: str) -> str:
        nodes = " and ".join(f"node {node}" for node in self.nodes)
        return words.format(nodes=nodes, timeline=self.timeline, own=self.own)
