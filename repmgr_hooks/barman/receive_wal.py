"""Steps on Barman's receive-wal: stop it, start it until it streams, and have a closed file arrive on Barman's disk."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import PurePosixPath

from repmgr_hooks.barman import archive
from repmgr_hooks.cluster.decide import ClusterState
from repmgr_hooks.cluster.wal import lsn
from repmgr_hooks.errors import OperationFailed
from repmgr_hooks.settings.barman import Barman
from repmgr_hooks.system.steps import Host, Program, Sql, Step

TERMINATES_PROCESSES = (3, 14)
START_EVERY = 2.0
"""What fails at its start is soon over: the slot is in use until the primary has ended the walsender before."""
STOP_LIMIT = 20.0  # Barman itself gives up after 10 polls, 1 s apart (process.py:144-165)
# Null without a slot: Barman cannot stream through one that somebody has dropped.
# A position beyond the switchpoint is sent on the new timeline only. A clock that was set back makes nobody young.
STREAMING = """
select (select exists (select 1 from pg_stat_replication
                        where pid = active_pid and state = 'streaming' and sent_lsn >= %s::pg_lsn
                          and extract(epoch from clock_timestamp() - backend_start) not between 0 and %s)
          from pg_replication_slots where slot_name = %s)
"""
# A record of our own first, for where nothing was written since the last switch PostgreSQL does not switch
# (xlogfuncs.c, pg_switch_wal). On a standby both raise an error.
SWITCH = "select pg_logical_emit_message(false, 'repmgr_hooks', ''), pg_switch_wal()"
INACTIVE = "select not exists (select 1 from pg_replication_slots where slot_name = %s and active)"


def stop_words(settings: Barman, host: Host) -> tuple[str, ...]:
    """Return the words that stop its receiver: Barman 3.20 deprecates ``--stop``. Raises OperationFailed."""
    if archive.at_least(archive.places(settings, host)) >= TERMINATES_PROCESSES:
        return ("terminate-process", settings.server, "receive-wal")
    return ("receive-wal", "--stop", settings.server)


def receiver_runs(settings: Barman, host: Host) -> bool:
    """False if certainly no receiver of this server runs where Barman does: then there is none to be stopped.

    Barman's own commands take a second Python's start, and a second more, to find that out. What looks like one (Barman
    sees its lock, process.py) is left to them, and so is everything where there is no pgrep. An ssh that has started
    one elsewhere is none; it may hang long after that has ended.
    """
    try:
        # The expression does not match itself in the command line of a shell or of sudo that leads there.
        found = host.run(
            archive.look_beside(settings, "pgrep", "-a", "-f", "receive-?wal", tolerate="^$"), archive.LIMIT
        )
    except OperationFailed:
        return True
    return any(_is_receiver(line.split()[1:], settings.server) for line in found.splitlines())


def _is_receiver(words: Sequence[str], server: str) -> bool:
    return {"receive-wal", server} <= set(words) and PurePosixPath(words[0]).name != "ssh"


def stop(state: ClusterState, words: tuple[str, ...], until: Sql | None = None) -> Step:
    """By the ``words`` that stop one. It answers 1 both when nothing runs and when it failed: the text says which.

    Barman sends SIGTERM and gives up after 10 s (process.py), so one that hangs, and its pg_receivewal, must be
    killed by whoever has seen why.
    """
    program = barman(state, *words, tolerate="no such process")
    target = state.barman.server
    kill = Program(state.barman.beside("pkill", "-KILL", "-f", rf"receive-?wal.*[ /]{re.escape(target)}([ /]|$)"))
    hint = f"if it hangs, kill it, and what it has started: {kill}"
    return Step("stop Barman's receive-wal", program, STOP_LIMIT, "stop_stream", target, until=until, hint=hint)


def start(state: ClusterState, limit: float, age: int) -> Step:
    """Not by ``barman cron``, which would wait for its own lock, for servers that sort before ours, and for retention.

    It is what cron starts too; Barman's lock lets one in, whoever started it. ``age``: for so many seconds it must have
    streamed.
    """
    return Step(
        f"start Barman's receive-wal, until it streams from node {state.primary}",
        replace(barman(state, "-q", "receive-wal", state.barman.server), resident=True),
        limit,
        kind="start_stream",
        target=state.barman.server,
        node=state.primary,
        until=_streaming(state, age),
        every=START_EVERY,
        hint="Barman's log (barman.log) says why its receive-wal ends; it may also have much to catch up with",
    )


def is_stopped(state: ClusterState) -> Sql:
    """Ask the primary whether nobody streams through the slot."""
    return Sql(state.primary, INACTIVE, (state.barman.slot_name,))


def switch_wal(state: ClusterState, written: Program | None, timeout: int, by_barman: bool = False) -> Step:
    """By SQL: Barman's ``switch-wal --force`` is a Python's start, and a checkpoint that takes minutes where much is to
    be written. ``by_barman``: our role may not.

    Barman not with ``--archive``: whoever holds the lock of archive-wal would hold it up. A file on its disk is safe.
    To stream the end of a file, pg_receivewal waits for nothing that is written behind it. ``written``: a look whether
    that file is there.
    """
    switch: Program | Sql = Sql(state.primary, SWITCH)
    if by_barman:
        switch = _switch_by_barman(state)
    return Step(
        f"switch WAL and see timeline {state.timeline} on Barman's disk",
        switch,
        timeout + 30.0,
        kind="switch_wal",
        target=state.barman.server,
        node=state.primary,
        until=written,
        every=timeout + 30.0,
        hint="see whether Barman streams: repmgr-hooks status",
    )


def _switch_by_barman(state: ClusterState) -> Program:
    return barman(
        state,
        *("-f", "json", "switch-wal", "--force", state.barman.server),
        expect=rf"The WAL file {state.timeline:08X}[0-9A-F]{{16}} has been closed",
    )


def _streaming(state: ClusterState, age: int) -> Sql:
    written = lsn(state.states[state.primary].lsn)
    return Sql(state.primary, STREAMING, (written, age, state.barman.slot_name))


def barman(state: ClusterState, *words: str, tolerate: str = "", expect: str = "") -> Program:
    """Return the program that runs Barman with these words."""
    return Program((*state.barman.command, *words), tolerate=tolerate, expect=expect)
