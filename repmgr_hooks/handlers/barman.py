"""Barman streams from the primary, and has the first closed WAL file of its timeline in the archive.

Barman's exit codes prove neither: ``cron`` answers 0 although receive-wal then fails, ``switch-wal`` answers 0 from a
standby. So the stream is looked for on the primary, and the file in what Barman says of its archive.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from repmgr_hooks.cluster import Cluster
from repmgr_hooks.decide import Decided
from repmgr_hooks.errors import StepFailed
from repmgr_hooks.schema import Positive
from repmgr_hooks.steps import Program, Sql, Step, World

STOP_LIMIT = 20.0  # Barman itself gives up after 10 polls, 1 s apart (process.py:144-165)
LOOK_LIMIT = 30.0


@dataclass(frozen=True)
class SwitchWal:
    """``timeout``: seconds that Barman waits for the closed file to reach the archive."""

    timeout: Positive = 90


@dataclass(frozen=True)
class Config:
    """``{stream: true}``, ``{switch_wal: {timeout: 90}}``, or both. ``start_timeout`` is in seconds."""

    stream: bool = False
    switch_wal: SwitchWal | None = None
    start_timeout: Positive = 60

    @property
    def on_tick(self) -> bool:
        """Whether to look without an event: not into Barman's archive, for starting Barman costs too much."""
        return self.switch_wal is None


@dataclass(frozen=True)
class Seen:
    """Whether Barman's walsender streams from the primary, and whether Barman has a closed file of its timeline."""

    streaming: bool
    archived: bool


STREAMING = """
select exists (select 1 from pg_replication_slots join pg_stat_replication on pid = active_pid
                where slot_name = %s and state = 'streaming')
"""
# Until the first checkpoint of a new timeline has ended (pg_control lags until then), nothing can have been switched by
# us, which forces one; Barman need not be asked.
WRITTEN = """
select pg_current_wal_lsn()::text, (select setting::bigint from pg_settings where name = 'wal_segment_size'),
       (select timeline_id from pg_control_checkpoint())
"""
# Barman keeps the newest complete file back until the first bytes of the next one have come (wal_archiver.py:970-983);
# on an idle primary that takes up to 25 s. A transaction id writes a commit record at once and needs no privilege.
WRITE_SOME_WAL = "select txid_current()"


def problems(config: Config, cluster: Cluster) -> Iterable[str]:
    """Barman's server must be known, and something must be asked for."""
    if cluster.barman is None:
        yield "needs the section 'barman' of the cluster"
    if not config.stream and not config.switch_wal:
        yield "asks for nothing; say 'stream: true' or 'switch_wal: {}'"


def observe(config: Config, decided: Decided, world: World) -> Seen:
    """Look for Barman's walsender on the primary, and ask Barman for the last file that the primary closed."""
    sender = decided.states[decided.primary].sender(decided.barman.slot)
    if sender and not sender.state:
        raise StepFailed(f"node {decided.primary}: our role may not see walsenders; see config/grants.sql")
    streaming = sender is not None and sender.state == "streaming"
    if not config.switch_wal:
        return Seen(streaming, False)
    written, segment_size, checkpoint_timeline = world.fetch(Sql(decided.primary, WRITTEN), LOOK_LIMIT)[0]
    if checkpoint_timeline != decided.timeline:
        return Seen(streaming, False)
    closed = last_closed_file(decided.timeline, written, segment_size)
    # get-wal --peek answers 0 and nothing when the file is missing.
    there = world.run(_barman(decided, "get-wal", "--peek", "1", decided.barman.server, closed), LOOK_LIMIT)
    return Seen(streaming, closed in there)


def last_closed_file(timeline: int, lsn: str, segment_size: int) -> str:
    """Return the name of the last complete WAL file before a position.

    ``pg_walfile_name`` will not do: at the very end of a file it names that file, as if it were still open.

    >>> last_closed_file(2, "5/0", 16 * 1024 * 1024)
    '0000000200000004000000FF'
    """
    high, low = (int(part, 16) for part in lsn.split("/"))
    log, segment = divmod(((high << 32) + low) // segment_size - 1, 0x1_0000_0000 // segment_size)
    return f"{timeline:08X}{log:08X}{segment:08X}"


def plan(config: Config, decided: Decided, seen: Seen) -> list[Step]:
    """Return the steps that start the stream anew and prove the archive, as far as they are missing."""
    steps = []
    if config.stream and not seen.streaming:
        steps += _restart_stream(decided, config.start_timeout)
    if config.switch_wal and not seen.archived:
        steps.append(_switch_wal(decided, config.switch_wal.timeout))
    return steps


def _restart_stream(decided: Decided, limit: float) -> list[Step]:
    # --stop answers 1 both when nothing runs and when it failed; only the text tells them apart.
    stop = _barman(decided, "receive-wal", "--stop", decided.barman.server, tolerate="no such process")
    return [
        Step("stop Barman's receive-wal", stop, STOP_LIMIT),
        Step(
            f"start Barman's receive-wal, until it streams from node {decided.primary}",
            _barman(decided, "-q", "cron"),
            limit,
            until=_streaming(decided),
            every=5,
            hint="Barman's log (barman.log) says why its receive-wal ends",
        ),
    ]


def _switch_wal(decided: Decided, timeout: int) -> Step:
    switch = _barman(
        decided,
        *("-f", "json", "switch-wal", "--force", "--archive", "--archive-timeout", str(timeout)),
        decided.barman.server,
        expect=rf"The WAL file {decided.timeline:08X}[0-9A-F]{{16}} has been closed",
    )
    return Step(
        f"switch WAL and see timeline {decided.timeline} in Barman's archive",
        switch,
        timeout + 30.0,
        meanwhile=Sql(decided.primary, WRITE_SOME_WAL),
    )


def _streaming(decided: Decided) -> Sql:
    return Sql(decided.primary, STREAMING, (decided.barman.slot,))


def _barman(decided: Decided, *words: str, tolerate: str = "", expect: str = "") -> Program:
    return Program((*decided.barman.command, *words), tolerate=tolerate, expect=expect)
