"""A gate: pgBackRest's archive has WAL of the primary's timeline.

It stands in a route before ``firewall: {open: app}``. PostgreSQL archives a history file first and then the oldest WAL
file first (pgarch.c, pgarch_readyXlog), so when a file of the new timeline is in the repository, the old timeline is
there too, and a restore comes as far as the promotion. The repository is asked, not PostgreSQL: an ``archive_command``
may answer 0 whatever it did.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from repmgr_hooks.cluster.decide import ClusterState
from repmgr_hooks.errors import OperationFailed
from repmgr_hooks.handlers import contract
from repmgr_hooks.settings.barman import Words
from repmgr_hooks.settings.schema import Identifier, Timeout
from repmgr_hooks.system.steps import Host, Program, Sql, Step
from repmgr_hooks.text import one_line

LOOK_LIMIT = 10.0
SWITCH_AGAIN = 15.0
# An idle primary has nothing to close (xlogfuncs.c, pg_switch_wal): so that there is something.
SWITCH = "select pg_logical_emit_message(false, 'pgbackrest', ''), pg_switch_wal()"
FAILED = """
select last_failed_wal from pg_stat_archiver
 where last_failed_time > coalesce(last_archived_time, '-infinity')
"""
FILE = re.compile(r"\b([0-9A-F]{24})-[0-9a-f]{40}\b", re.ASCII)
"""As it stands in a repository: the name of the WAL file, and the checksum of what is in it."""

validate = contract.always_valid
fail_open_after = contract.never_fails_open
on_tick = contract.looks_on_tick
helper = contract.never_helps
shared = contract.exists_once
fingerprint = contract.no_fingerprint
warnings = contract.no_warnings
fence = contract.fence_nothing


@dataclass(frozen=True)
class Config:
    """``command`` runs pgBackRest where the repository can be read; ``timeout``: seconds for WAL to arrive there."""

    stanza: Identifier
    command: Words = ("pgbackrest",)
    timeout: Timeout = 90


def observe(config: Config, state: ClusterState, host: Host) -> frozenset[str]:
    """Return the WAL files of the primary's timeline that are in the repository."""
    return frozenset(_files(host.run(_listing(config, state), LOOK_LIMIT), state.timeline))


def plan(config: Config, state: ClusterState, seen: frozenset[str]) -> list[Step]:
    """Return the one step: close a WAL file, and wait until one has arrived."""
    if seen:
        return []
    return [
        Step(
            f"switch WAL and see timeline {state.timeline} in pgBackRest's repository",
            Sql(state.primary, SWITCH),
            config.timeout,
            kind="archive_wal",
            target=config.stanza,
            node=state.primary,
            until=_listing(config, state),
            every=SWITCH_AGAIN,
            hint=f"see pg_stat_archiver on node {state.primary}, and PostgreSQL's log there",
        )
    ]


def housekeep(config: Config, state: ClusterState, host: Host) -> None:
    """Say which file cannot be archived. Raises OperationFailed."""
    if rows := host.fetch(Sql(state.primary, FAILED), LOOK_LIMIT):
        name = one_line(str(rows[0][0])) if rows[0] else ""
        what = f"node {state.primary} cannot archive {name} with pgBackRest"
        raise OperationFailed(what, code="archive_failed", hint="see PostgreSQL's log there")


def _listing(config: Config, state: ClusterState) -> Program:
    quiet = ("--log-level-file=off", "--log-level-console=warn", "--log-level-stderr=off")
    wanted = f"--filter=/{state.timeline:08X}[0-9A-F]{{16}}-[0-9a-f]{{40}}"
    return Program((*config.command, *quiet, "repo-ls", "--recurse", wanted, f"archive/{config.stanza}"))


def _files(listing: str, timeline: int) -> Iterable[str]:
    return (name for name in FILE.findall(listing) if int(name[:8], 16) == timeline)
