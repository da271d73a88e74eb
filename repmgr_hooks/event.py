"""What repmgr says: one event, checked, and the catalogue of the events that exist.

The catalogue was derived from repmgr's C source (4.0.0 to 5.5.0), not from its manual, which names events that never
reach the script and leaves out some that do.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum

from repmgr_hooks.errors import BadInput, did_you_mean, shorten


class Meaning(Enum):
    """What an event claims about the node that it names (``%n``)."""

    PRIMARY = "the node is the primary"
    STANDBY = "the node is a standby"
    TROUBLE = "something is wrong"
    NOTE = "nothing that changes a role"


@dataclass(frozen=True)
class Kind:
    """An event name of repmgr's: what it claims, and the repmgr versions whose script call knows it."""

    meaning: Meaning
    since: str = "4.0.0"
    until: str = ""


CATALOGUE: dict[str, Kind] = {
    "cluster_created": Kind(Meaning.NOTE),
    "primary_register": Kind(Meaning.PRIMARY),
    "primary_unregister": Kind(Meaning.NOTE),
    "standby_clone": Kind(Meaning.NOTE),
    "standby_register": Kind(Meaning.STANDBY),
    "standby_register_sync": Kind(Meaning.STANDBY, since="4.0.3"),
    "standby_unregister": Kind(Meaning.NOTE),
    "standby_promote": Kind(Meaning.PRIMARY),
    "standby_follow": Kind(Meaning.STANDBY),
    "standby_switchover": Kind(Meaning.PRIMARY, since="4.0.2"),
    "standby_disconnect_manual": Kind(Meaning.TROUBLE),
    "standby_failure": Kind(Meaning.TROUBLE),
    "standby_recovery": Kind(Meaning.STANDBY),
    "witness_register": Kind(Meaning.NOTE, since="4.4.0"),
    "witness_unregister": Kind(Meaning.NOTE, since="4.4.0"),
    "node_rejoin": Kind(Meaning.STANDBY),
    "cluster_cleanup": Kind(Meaning.NOTE, since="4.2.0"),
    "repmgrd_start": Kind(Meaning.NOTE),
    "repmgrd_reload": Kind(Meaning.NOTE),
    "repmgrd_terminate": Kind(Meaning.NOTE, until="4.0.3"),
    "repmgrd_shutdown": Kind(Meaning.NOTE, since="4.0.4"),
    "repmgrd_local_disconnect": Kind(Meaning.TROUBLE),
    "repmgrd_local_reconnect": Kind(Meaning.NOTE),
    "repmgrd_standby_reconnect": Kind(Meaning.STANDBY, since="4.0.4"),
    "repmgrd_upstream_disconnect": Kind(Meaning.TROUBLE, since="5.3.3"),
    "repmgrd_upstream_reconnect": Kind(Meaning.NOTE),
    "repmgrd_failover_promote": Kind(Meaning.PRIMARY),
    "repmgrd_failover_follow": Kind(Meaning.STANDBY),
    "repmgrd_failover_abort": Kind(Meaning.NOTE),
    "repmgrd_failover_aborted": Kind(Meaning.NOTE, since="4.0.5"),
    # Sent with %s=1 although it reports a failure (repmgr 5.3 to 5.5, repmgrd-physical.c:3771).
    "repmgrd_promote_error": Kind(Meaning.TROUBLE),
    "child_node_disconnect": Kind(Meaning.NOTE, since="4.4.0"),
    "child_node_reconnect": Kind(Meaning.NOTE, since="4.4.0"),
    "child_node_new_connect": Kind(Meaning.NOTE, since="4.4.0"),
    "child_nodes_disconnect_command": Kind(Meaning.TROUBLE, since="4.4.0"),
    "bdr_register": Kind(Meaning.NOTE, until="5.0.0"),
    "bdr_unregister": Kind(Meaning.NOTE, until="5.0.0"),
    "bdr_failover": Kind(Meaning.NOTE, until="5.0.0"),
    "bdr_recovery": Kind(Meaning.NOTE, until="5.0.0"),
    "bdr_reconnect": Kind(Meaning.NOTE, until="5.0.0"),
}


@dataclass(frozen=True)
class Event:
    """One call of the hook: ``%n %e %s "%p" "%t"``.

    ``success`` is recorded and never believed: repmgr sends ``standby_promote`` with ``%s`` = 0 only when it has seen
    the node out of recovery (repmgr-action-standby.c:2757-2792), and ``repmgrd_promote_error`` with ``%s`` = 1.
    """

    node: int
    name: str
    success: bool = True
    other_node: int | None = None
    timestamp: str = ""

    @property
    def meaning(self) -> Meaning:
        """What the event claims about its node."""
        return CATALOGUE[self.name].meaning

    def __str__(self) -> str:
        return f"{self.name} of node {self.node}"


def parse_event(words: list[str]) -> Event:
    """Check the arguments ``NODE EVENT [SUCCESS [OTHER_NODE [TIMESTAMP]]]`` and return the event.

    >>> parse_event(["2", "standby_promote"])
    Event(node=2, name='standby_promote', success=True, other_node=None, timestamp='')
    >>> parse_event(["2", "repmgrd_failover_promote", "1", "1", "2026-11-20 03:00:00+00"]).other_node
    1

    Raises BadInput for anything that repmgr itself would not send.
    """
    if not 2 <= len(words) <= 5:
        raise BadInput(f"an event is NODE EVENT [SUCCESS [OTHER_NODE [TIMESTAMP]]]; got {len(words)} arguments")
    node, name, success, other, timestamp = words + ["1", "", ""][len(words) - 2 :]
    if name not in CATALOGUE:
        raise BadInput(f"unknown event {shorten(name)}{did_you_mean(name, CATALOGUE)}")
    if success not in ("0", "1"):
        raise BadInput(f"SUCCESS is 0 or 1 (repmgr's %s); got {shorten(success)}")
    # repmgr leaves an unset %p empty, and some events say -1 for "no upstream" (repmgrd-physical.c:871).
    other_node = None if other in ("", "-1") else node_id(other, "OTHER_NODE")
    return Event(node_id(node, "NODE"), name, success == "1", other_node, plain_text(timestamp))


def node_id(text: str, what: str) -> int:
    """Return the repmgr node id (1 to 2147483647) that ``text`` spells. Raises BadInput."""
    if not re.fullmatch(r"[1-9][0-9]{0,9}", text, re.ASCII) or int(text) > 2**31 - 1:
        raise BadInput(f"{what} is a repmgr node id, a whole number from 1; got {shorten(text)}")
    return int(text)


def plain_text(text: str) -> str:
    """Return ``text`` if it is at most 64 printable ASCII characters. Raises BadInput."""
    if len(text) > 64 or not re.fullmatch(r"[ -~]*", text):
        raise BadInput(f"TIMESTAMP is at most 64 printable characters (repmgr's %t); got {shorten(text)}")
    return text
