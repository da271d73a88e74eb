"""``may-promote``: repmgr's ``failover_validation_command``. Only a veto forbids a promotion, never our own failure.

repmgrd waits for us in popen(), takes the first line of the output, and reruns the election after any exit code but 0
(repmgrd-physical.c, execute_failover_validation_command). It reads no more than that line (sysutils.c, _local_command),
so there is no second one to be written into a closed pipe.
"""

from __future__ import annotations

import argparse
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import FrameType

from repmgr_hooks import clock
from repmgr_hooks.cli.configured import choose, configured
from repmgr_hooks.cli.output import OK
from repmgr_hooks.cluster.observe import observe
from repmgr_hooks.errors import OperationFailed
from repmgr_hooks.event import Event
from repmgr_hooks.journal.last_seen import LastSeen, read_all
from repmgr_hooks.reports.may_promote import Asked, objections, receivers
from repmgr_hooks.settings.cluster import Cluster
from repmgr_hooks.system.host import LocalHost
from repmgr_hooks.text import MOST, one_line

VETO = 4
"""No other way to end has this exit code: not Python's own, the shell's, or that of ``timeout``."""
LIMIT = 10.0
WAIT = 3.0
"""Seconds for the service to look once more; it looks ten times a second when repmgr has told it of trouble."""
POLL = 0.1


def do_may_promote(arguments: argparse.Namespace) -> int:
    """Answer within the limit, on one line."""
    with limited(LIMIT):
        try:
            against = found(arguments, clock.since_boot())
        except Exception as error:
            against, said = [], f"may be promoted; it is not known what speaks against it: {error}"
        else:
            said = f"must not be promoted: {'; '.join(against)}" if against else "may be promoted"
        print(one_line(f"node {arguments.node} {said}", 2 * MOST), flush=True)
    return VETO if against else OK


def found(arguments: argparse.Namespace, begun: float) -> list[str]:
    """Ask the nodes and the service. Raises HooksError and others."""
    loaded = configured(arguments)
    (managed,) = choose(loaded, arguments.cluster, Event(arguments.node, "repmgrd_failover_promote"))
    cluster = readable(managed.cluster)
    host = LocalHost(cluster.conninfos())
    states = observe(cluster, host)
    answers = host.fetch_each(receivers(states), cluster.postgres.timeout)
    heard = {
        node: float(rows[0][0])
        for node, rows in answers.items()
        if not isinstance(rows, OperationFailed) and rows and isinstance(rows[0][0], float)
    }
    asked = Asked(arguments.node, states, heard, max_lost_wal=arguments.max_lost_wal)
    if against := list(objections(asked)):
        return against
    seen, since = service_says(arguments.directory, cluster.name, begun)
    return list(objections(replace(asked, seen=seen, since=since)))


def readable(cluster: Cluster) -> Cluster:
    """Return a cluster whose password file is ours: repmgrd's user has one of its own, which libpq finds."""
    passfile = cluster.postgres.passfile
    if not passfile or os.access(passfile, os.R_OK):
        return cluster
    return replace(cluster, postgres=replace(cluster.postgres, passfile=""))


def service_says(directory: Path, cluster: str, begun: float) -> tuple[LastSeen | None, bool]:
    """Return what the service saw last, and whether it has looked since; it is waited for, a little, if it is there."""
    end = clock.monotonic() + WAIT
    while True:
        now = clock.since_boot()  # before it is read: a look must not seem to be later than it was
        seen, looked = next(
            (
                (seen, now + left - seen.valid_for)
                for name, seen, left in read_all(directory)
                if seen and name == cluster
            ),
            (None, 0.0),
        )
        if seen is None or (looked > begun and not seen.in_step):
            return seen, seen is not None
        if clock.monotonic() >= end:
            return seen, False
        clock.sleep(POLL)


@contextmanager
def limited(seconds: float) -> Iterator[None]:
    """End the process by then, whatever it waits for, without a veto."""

    def over(number: int, frame: FrameType | None) -> None:
        os.write(1, f"may be promoted; there was no answer within {seconds:.0f} s\n".encode())
        os._exit(OK)

    before = signal.signal(signal.SIGALRM, over)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
