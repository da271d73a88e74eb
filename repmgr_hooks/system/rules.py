"""Reads our rules through a host, and writes them; those that the other back end has left, too."""

from __future__ import annotations

import logging
import threading

from repmgr_hooks.errors import NoSuchProgram, OperationFailed, odd_answer
from repmgr_hooks.netfilter.backends import BACKENDS, chosen
from repmgr_hooks.netfilter.our_rules import Backend, OurRules
from repmgr_hooks.settings.cluster import Cluster
from repmgr_hooks.system.answers import NOT_ROOT
from repmgr_hooks.system.steps import Host, Program

log = logging.getLogger(__name__)

LIMIT = 10.0
UNSEEN = "rules_unseen"
"""The code of rules that are not shown to the user that we are."""
LEFTOVERS_LIMIT = 5.0
"""For a look at what the other back end has, behind which other ports may wait."""


def our_rules(cluster: Cluster, host: Host) -> OurRules:
    """Read our rules. Raises OperationFailed."""
    return _read(chosen(cluster), cluster, host)


def leftovers(cluster: Cluster, host: Host) -> list[OurRules]:
    """Read what is there of ours from the time when the configuration named another back end.

    Moving a port does not depend on it: what cannot be read is logged, and is nothing unless the table is ours alone.
    """
    tables = host.nft_tables()
    found = [
        _tried(name, cluster, host)
        for name, backend in BACKENDS.items()
        if backend is not chosen(cluster) and (backend.table(cluster) in tables or not in_nf_tables(backend, host))
    ]
    return [ours for ours in found if ours.there]


def change(cluster: Cluster, backend: str, text: str, helper: bool = False) -> Program:
    """Return the program that makes a change of our rules."""
    return Program(BACKENDS[backend].writing(cluster), stdin=text, helper=helper)


def generation(cluster: Cluster, host: Host) -> int | None:
    """Return a number that changes with the rules; None if there is none to be had."""
    return host.rules_generation() if in_nf_tables(chosen(cluster), host) else None


def in_nf_tables(backend: Backend, host: Host) -> bool:
    """True if its rules are in nf_tables, whose changes the kernel counts; those of iptables-legacy are not."""
    try:
        asked = Program(backend.VERSION, constant=True, helper=True)
        return not backend.VERSION or "nf_tables" in host.run(asked, LEFTOVERS_LIMIT)
    except OperationFailed:
        return False


def _read(backend: Backend, cluster: Cluster, host: Host, helper: bool = False) -> OurRules:
    program = Program(backend.reading(cluster), tolerate=backend.ABSENT, helper=helper, counted=backend.COUNTED)
    try:
        printed = host.run(program, LEFTOVERS_LIMIT if helper else LIMIT)
    except NoSuchProgram:
        raise
    except OperationFailed as error:
        if error.code != NOT_ROOT:
            raise
        what = "where the ports lead cannot be seen: netfilter shows its rules to root"
        raise OperationFailed(what, code=UNSEEN, hint="run it as root") from error
    try:
        return _parsed(backend, printed, cluster)
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise OperationFailed(f"{program}: {odd_answer(error)}", code="odd_answer") from error


class _Last(threading.local):
    """What was parsed last in this thread, and the result. Of a text its hash: a hundred loops would keep as many."""

    parsed: tuple[Backend, int, Cluster] | None = None
    ours = OurRules("")


LAST = _Last()


def _parsed(backend: Backend, printed: str, cluster: Cluster) -> OurRules:
    """Parse it, unless that was done just now: a look asks for each port, of a table that has all clusters' rules."""
    last, text = LAST.parsed, hash(printed)
    if not (last and last[0] is backend and last[1] == text and last[2] is cluster):
        LAST.ours, LAST.parsed = backend.parse(printed, cluster), (backend, text, cluster)
    return LAST.ours


def _tried(name: str, cluster: Cluster, host: Host) -> OurRules:
    backend = BACKENDS[name]
    try:
        return _read(backend, cluster, host, helper=True)
    except OperationFailed as error:
        if not isinstance(error, NoSuchProgram):
            log.warning("%s: what it has of our rules is not known", error)
        return OurRules(name, there=backend.OWN_TABLE)
