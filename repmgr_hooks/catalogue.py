"""The events that repmgr sends, and the check of the words that it sends with them. Imports nothing: the hook needs it.

Derived from repmgr's C source (4.0.0 to 5.5.0), not from its manual, which names events that never reach the script
and leaves out some that do.
"""

PRIMARY = "the node is the primary"
STANDBY = "the node is a standby"
TROUBLE = "something is wrong"
NOTE = "nothing that changes a role"

REHEARSAL = "repmgr_hooks_check"
"""No event of repmgr's: what ``check --end-to-end`` sends. A route may name it, to rehearse a program of one's own."""

# name: (what it claims about its node, first version that calls the script with it, last version or empty)
EVENTS = {
    "cluster_created": (NOTE, "4.0.0", ""),
    "primary_register": (PRIMARY, "4.0.0", ""),
    "primary_unregister": (NOTE, "4.0.0", ""),
    "standby_clone": (NOTE, "4.0.0", ""),
    "standby_register": (STANDBY, "4.0.0", ""),
    "standby_register_sync": (STANDBY, "4.0.3", ""),
    "standby_unregister": (NOTE, "4.0.0", ""),
    "standby_promote": (PRIMARY, "4.0.0", ""),
    "standby_follow": (STANDBY, "4.0.0", ""),
    "standby_switchover": (PRIMARY, "4.0.2", ""),
    "standby_disconnect_manual": (TROUBLE, "4.0.0", ""),
    "standby_failure": (TROUBLE, "4.0.0", ""),
    "standby_recovery": (STANDBY, "4.0.0", ""),
    "witness_register": (NOTE, "4.4.0", ""),
    "witness_unregister": (NOTE, "4.4.0", ""),
    "node_rejoin": (STANDBY, "4.0.0", ""),
    "cluster_cleanup": (NOTE, "4.2.0", ""),
    "repmgrd_start": (NOTE, "4.0.0", ""),
    "repmgrd_reload": (NOTE, "4.0.0", ""),
    "repmgrd_terminate": (NOTE, "4.0.0", "4.0.3"),
    "repmgrd_shutdown": (NOTE, "4.0.4", ""),
    "repmgrd_local_disconnect": (TROUBLE, "4.0.0", ""),
    "repmgrd_local_reconnect": (NOTE, "4.0.0", ""),
    "repmgrd_standby_reconnect": (STANDBY, "4.0.4", ""),
    "repmgrd_upstream_disconnect": (TROUBLE, "5.3.3", ""),
    "repmgrd_upstream_reconnect": (NOTE, "4.0.0", ""),
    "repmgrd_failover_promote": (PRIMARY, "4.0.0", ""),
    "repmgrd_failover_follow": (STANDBY, "4.0.0", ""),
    "repmgrd_failover_abort": (NOTE, "4.0.0", ""),
    "repmgrd_failover_aborted": (NOTE, "4.0.5", ""),
    # Sent with %s=1 although it reports a failure (repmgr 5.3 to 5.5, repmgrd-physical.c:3771).
    "repmgrd_promote_error": (TROUBLE, "4.0.0", ""),
    "child_node_disconnect": (NOTE, "4.4.0", ""),
    "child_node_reconnect": (NOTE, "4.4.0", ""),
    "child_node_new_connect": (NOTE, "4.4.0", ""),
    "child_nodes_disconnect_command": (TROUBLE, "4.4.0", ""),
    "bdr_register": (NOTE, "4.0.0", "5.0.0"),
    "bdr_unregister": (NOTE, "4.0.0", "5.0.0"),
    "bdr_failover": (NOTE, "4.0.0", "5.0.0"),
    "bdr_recovery": (NOTE, "4.0.0", "5.0.0"),
    "bdr_reconnect": (NOTE, "4.0.0", "5.0.0"),
    REHEARSAL: (NOTE, "4.0.0", ""),
}


def problem(words: list[str]) -> str:
    """Return what is wrong with ``NODE EVENT [SUCCESS [OTHER_NODE [TIMESTAMP]]]``; empty if nothing is.

    >>> problem(["2", "standby_promote", "1", "", "2026-11-20 03:00:00+00"])
    ''
    >>> problem(["1;reboot", "standby_promote"])
    "NODE is a repmgr node id, a whole number from 1; got '1;reboot'"
    """
    if not 2 <= len(words) <= 5:
        return f"an event is NODE EVENT [SUCCESS [OTHER_NODE [TIMESTAMP]]]; got {len(words)} arguments"
    node, name, success, other, timestamp = words + ["1", "", ""][len(words) - 2 :]
    if not is_event(name):
        return f"EVENT is a name such as standby_promote: small letters, digits and underscores; got {shorten(name)}"
    if not is_node_id(node):
        return f"NODE is a repmgr node id, a whole number from 1; got {shorten(node)}"
    if success not in ("0", "1"):
        return f"SUCCESS is 0 or 1 (repmgr's %s); got {shorten(success)}"
    # repmgr leaves an unset %p empty, and some events say -1 for "no upstream" (repmgrd-physical.c:871).
    if other not in ("", "-1") and not is_node_id(other):
        return f"OTHER_NODE is a repmgr node id, a whole number from 1; got {shorten(other)}"
    if len(timestamp) > 64 or not (timestamp.isascii() and (timestamp.isprintable() or not timestamp)):
        return f"TIMESTAMP is at most 64 printable characters (repmgr's %t); got {shorten(timestamp)}"
    return ""


def cluster_problem(name: str) -> str:
    """Return what is wrong with the name of a cluster (none is right); empty if nothing is."""
    if len(name) > 63 or not (name.isascii() and (name.isprintable() or not name)):
        return f"CLUSTER is the name of one in the configuration, at most 63 characters; got {shorten(name)}"
    return ""


def is_event(name: str) -> bool:
    """True for what may be the name of an event, of this repmgr or of a newer one (repmgr's are at most 63 long).

    >>> is_event("standby_promote"), is_event("standby_split"), is_event("Standby promote")
    (True, True, False)
    """
    plain = name.replace("_", "a")
    return name in EVENTS or (
        len(name) <= 63 and plain.isascii() and plain.isalnum() and name[:1].islower() and name.islower()
    )


def is_node_id(text: str) -> bool:
    """True for the decimal spelling of 1 to 2147483647."""
    return text.isascii() and text.isdigit() and text[0] != "0" and len(text) <= 10 and int(text) < 2**31


def shorten(text: object) -> str:
    """Quote foreign text for a message: escapes made visible, at most 40 characters of it."""
    word = ascii(str(text))
    return word if len(word) <= 42 else f"{word[:39]}..."
