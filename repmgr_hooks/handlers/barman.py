"""Barman streams from the primary, and has all WAL up to the last closed file of the primary's timeline.

Barman's exit codes prove neither: ``receive-wal`` goes on or fails later, ``switch-wal`` answers 0 from a standby.
So the stream is looked for on the primary, and the files on Barman's disk. A stream that has just begun proves little:
Barman runs pg_receivewal with ``--no-loop``, so what fails has a new walsender each time, and ``streaming`` is said too
at the end of the old timeline, before it goes on with the new one. Where the stream cannot go on without a gap, or
because Barman has WAL that the primary never had, it is not started: ``receive-wal --reset`` would hide that. If what
Barman holds is of another branch than the primary's (``branch.py``), no stream is let in at all.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated

from repmgr_hooks import clock
from repmgr_hooks.barman import archive, backup, branch, config_models, content, receive_wal, wal_continuity
from repmgr_hooks.barman.branch import Fence
from repmgr_hooks.barman.wal_continuity import ArchivedWal, PrimaryWal, StreamPosition, StreamState
from repmgr_hooks.cluster.decide import ClusterState
from repmgr_hooks.cluster.observe import WalSender
from repmgr_hooks.errors import OperationFailed, Problem, mistake
from repmgr_hooks.handlers import contract
from repmgr_hooks.settings.cluster import Cluster, NodeId
from repmgr_hooks.settings.schema import Identifier, Range, Timeout
from repmgr_hooks.system.steps import Host, Program, Step

fail_open_after = contract.never_fails_open
shared = contract.one_barman
helper = contract.never_helps
warnings = contract.no_warnings
fence = contract.fence_nothing

START_TIMEOUT, STEADY = 60, 2
HOUSEKEEP_LIMIT = 5.0
COMPARE_EVERY = 600.0
"""So often a stream that goes on is looked into again."""


@dataclass(frozen=True)
class SwitchWal:
    """``timeout``: seconds that the closed file may take to come to Barman's disk."""

    timeout: Timeout = 90


@dataclass(frozen=True)
class Config:
    """``{stream: true}``, ``{switch_wal: {timeout: 90}}``, or both. ``start_timeout`` is in seconds.

    ``min_stream_age``: for so many seconds a walsender must have streamed before it counts.
    ``repair``: when Barman has more WAL of the old timeline than the primary, move that aside and let the stream go on.
    ``models``: for each node the model of Barman's that leads there, if no port of the gateway does.
    """

    stream: bool = False
    repair: bool = False
    switch_wal: SwitchWal | None = None
    start_timeout: Timeout | None = None
    min_stream_age: Annotated[int, Range(0, 60)] | None = None
    models: Mapping[NodeId, Identifier] = field(default_factory=dict)

    @property
    def stream_limit(self) -> int:
        """Seconds that the stream may take to begin."""
        return START_TIMEOUT if self.start_timeout is None else self.start_timeout

    @property
    def stream_age(self) -> int:
        """Seconds for which a walsender must have streamed."""
        return STEADY if self.min_stream_age is None else self.min_stream_age


@dataclass(frozen=True)
class Seen:
    """Whether Barman streams from the primary, else where it stands; whether it has the last closed file, and what is
    ``missing`` on the way there.

    ``coming``: it does not yet, but a walsender is at work that is young or has to catch up, and is left alone. If its
    receiver dies, the primary ends it (``wal_sender_timeout``). ``model``: Barman's active one. ``tail``: Barman has
    more of the old timeline than the primary ever had. ``conflict``: why nothing may be let in, and what to type;
    then ``attached``: a receive-wal is at work all the same. ``fence``: what keeps one from starting. ``stop``: the
    words that stop one, where one may have to be; ``idle``: certainly none runs. ``written``: a look whether Barman has
    the file that the primary wrote last; ``may_switch``: whether our role may have it closed.
    """

    streaming: bool
    archived: bool
    stream_state: StreamState = StreamState(StreamPosition.OK)
    missing: tuple[str, ...] = ()
    coming: bool = False
    model: str = ""
    tail: bool = False
    conflict: Problem | None = None
    attached: bool = False
    fence: Fence = Fence()
    stop: tuple[str, ...] = ()
    idle: bool = False
    written: Program | None = None
    may_switch: bool = False


def validate(config: Config, cluster: Cluster) -> Iterable[Problem]:
    """Barman's server must be known, and something must be asked for."""
    if cluster.barman is None:
        yield mistake("needs the section 'barman' of the cluster")
    if not config.stream and not config.switch_wal:
        yield mistake("asks for nothing", "say 'stream: true' or 'switch_wal: {}'")
    for name in ("min_stream_age", "start_timeout", "repair", "models") if not config.stream else ():
        if getattr(config, name) not in (None, False, {}):
            yield mistake(f"'{name}' needs 'stream: true'")
    if config.stream_age >= config.stream_limit:
        age = f"'min_stream_age' ({config.stream_age} s)"
        yield mistake(f"{age} must be less than 'start_timeout' ({config.stream_limit} s)")
    if config.models:
        yield from config_models.validate(config.models, cluster)


def on_tick(config: Config) -> bool:
    """Not into Barman's archive, for starting Barman costs too much."""
    return config.switch_wal is None


def observe(config: Config, state: ClusterState, host: Host) -> Seen:
    """Look for Barman's walsender on the primary, and at the files that Barman and the primary have."""
    sender = _sender(state)
    if sender:
        _must_be_named_as_barmans(sender, state)
    streaming = sender is not None and sender.state == "streaming" and not _young(sender, config.stream_age)
    coming = sender is not None and sender.state in ("catchup", "streaming") and not streaming
    seen = Seen(streaming, False, coming=coming)
    if not config.stream:
        return _archive(seen, state, host)
    held, primary = content.look(state.barman, state.primary, state.timeline, host)
    if sender and (streaming or coming):
        _must_come_to_barman(sender, held, primary, state, host)
    # While a stream goes on, what was remembered of the timeline proves nothing.
    began = None if streaming else state.last_known.began
    _, conflict = content.judged(held, primary, state.barman, host, began)
    if conflict:
        stop, fence = receive_wal.stop_words(state.barman, host), branch.fence_of(held, primary)
        return Seen(False, False, conflict=conflict, attached=sender is not None, fence=fence, stop=stop)
    if not streaming and not coming:
        seen = _before_a_start(seen, config, state, held, primary, host)
    seen = replace(seen, fence=branch.fence_of(held, primary) if held.fences else Fence())
    return _archive(seen, state, host) if config.switch_wal else seen


def _must_be_named_as_barmans(sender: WalSender, state: ClusterState) -> None:
    """Raises OperationFailed if the slot's walsender cannot be seen, or has another name than Barman's."""
    if not sender.state:
        what = f"node {state.primary}: our role may not see walsenders"
        raise OperationFailed(what, code="no_rights", hint="grant what config/grants.sql holds")
    if sender.application != state.barman.streaming_archiver_name:
        raise OperationFailed(
            f"node {state.primary}: the slot {state.barman.slot_name!r} is in use by {sender.application!r} from "
            f"{sender.client or 'its own host'}, not by {state.barman.streaming_archiver_name!r}",
            code="foreign_stream",
            hint="end that program, or correct 'streaming_archiver_name' in the section 'barman' of the cluster",
        )


def _must_come_to_barman(
    sender: WalSender, held: ArchivedWal, primary: PrimaryWal, state: ClusterState, host: Host
) -> None:
    """Raises OperationFailed if what is sent through the slot does not come into Barman's directory."""
    if not content.receives(sender, held, primary, state.barman, host):
        raise OperationFailed(
            f"node {state.primary}: what {sender.application!r} from {sender.client or 'its own host'} receives "
            f"through the slot {state.barman.slot_name!r} does not come into {held.directory}: it is another "
            "Barman's, such as a copy's or a migration's",
            code="foreign_stream",
            hint="stop that one, and give it a slot of its own",
        )


def _before_a_start(
    seen: Seen, config: Config, state: ClusterState, held: ArchivedWal, primary: PrimaryWal, host: Host
) -> Seen:
    """See what a receive-wal that is started now would meet."""
    stream_state = wal_continuity.classify(held, primary)
    tail = archive.has_a_tail(stream_state, primary.lineage.segment_size, state.barman, host)
    model = config_models.active(state.barman, host) if config.models else ""
    idle = not receive_wal.receiver_runs(state.barman, host)
    smooth = idle and not tail and stream_state.position is StreamPosition.OK
    stop = () if smooth else receive_wal.stop_words(state.barman, host)
    return replace(seen, stream_state=stream_state, tail=tail, model=model, idle=idle, stop=stop)


def fingerprint(state: ClusterState, host: Host) -> object:
    """Return what stays the same while the same receiver streams, for a while; None if none does."""
    sender = _sender(state)
    if sender is None or sender.state != "streaming":
        return None
    again = clock.turn(state.cluster.name, host.now(), COMPARE_EVERY)
    return state.primary, state.timeline, sender.pid, sender.application, again


def _sender(state: ClusterState) -> WalSender | None:
    return state.states[state.primary].sender(state.barman.slot_name)


def housekeep(config: Config, state: ClusterState, host: Host) -> None:
    """Ask Barman where its files are before that is needed: later it may try in vain to connect first, for 5 s or more.

    It is asked once, and its version shows in the same answer. Raises OperationFailed.
    """
    if config.models:
        config_models.place(state.barman, host, HOUSEKEEP_LIMIT)
    else:
        archive.places(state.barman, host, HOUSEKEEP_LIMIT, ahead=True)


def _young(sender: WalSender, min_stream_age: int) -> bool:
    return sender.age is not None and 0 <= sender.age < min_stream_age


def _archive(seen: Seen, state: ClusterState, host: Host) -> Seen:
    """See whether Barman has the last closed file of the timeline, and what it lacks before it; else how it comes."""
    primary = archive.look_at_primary(state.primary, state.timeline, host)
    if primary.has_closed_one:
        held = archive.look_at_archive(state.barman, host)
        if primary.last_closed_file in held.files:
            # A file of that name proves nothing, if it is of another branch.
            held, conflict = content.judged(held, archive.look_again(primary, host), state.barman, host)
            if conflict:
                raise OperationFailed(conflict.message, code=conflict.code, hint=conflict.hint)
            return replace(seen, archived=True, missing=backup.hole(held, primary, state.barman, host))
    written = archive.look_for(primary.open_file, state.barman, host)
    return replace(seen, written=written, may_switch=primary.may_switch)


def plan(config: Config, state: ClusterState, seen: Seen) -> list[Step]:
    """Return the steps that start the stream anew and prove the archive, as far as they are missing.

    Raises OperationFailed where no step of ours can help.
    """
    if seen.conflict:
        return _shut_out(state, seen, seen.conflict)
    steps = branch.take_away(seen.fence, state.barman)
    if config.stream and not seen.streaming:
        # The fence goes last: cron starts what may start.
        steps = (
            [*steps, receive_wal.start(state, config.stream_limit, config.stream_age)]
            if seen.coming
            else _restart_stream(config, state, seen, steps)
        )
    if config.switch_wal and not seen.archived:
        steps.append(receive_wal.switch_wal(state, seen.written, config.switch_wal.timeout, not seen.may_switch))
    if seen.missing:
        raise wal_continuity.archive_gap(seen.missing, state.barman)
    return steps


def _shut_out(state: ClusterState, seen: Seen, conflict: Problem) -> list[Step]:
    """Return the steps after which nothing flows in. Raises OperationFailed once nothing does.

    Barman's cron may have started a receive-wal before we came; first nobody may start another one.
    """
    steps = [] if seen.fence.there else branch.put_up(seen.fence, state.barman)
    if seen.attached:
        steps.append(receive_wal.stop(state, seen.stop, until=receive_wal.is_stopped(state)))
    if not steps:
        raise OperationFailed(conflict.message, code=conflict.code, hint=conflict.hint)
    return steps


def _restart_stream(config: Config, state: ClusterState, seen: Seen, let_in: list[Step]) -> list[Step]:
    stream_state, model = seen.stream_state, config.models.get(state.primary, "")
    tail = [wal_continuity.keep_tail(stream_state, state.barman)] if seen.tail else []
    remedy = wal_continuity.remedy(stream_state, state.barman) if stream_state.position is not StreamPosition.OK else []
    before = [*tail, *remedy]
    steps = [
        *([] if seen.idle and not before else [receive_wal.stop(state, seen.stop)]),
        *before,
        *([config_models.switch(state.barman, model)] if model != seen.model else []),
        *let_in,
        receive_wal.start(state, config.stream_limit, config.stream_age),
    ]
    if remedy and not (config.repair and wal_continuity.repairable(stream_state)):
        # By hand, receive-wal would hold the terminal; cron starts it in the background.
        by_hand = replace(steps[-1], do=receive_wal.barman(state, "-q", "cron"))
        raise wal_continuity.stream_gap(stream_state, state.barman, [*steps[:-1], by_hand])
    return steps
