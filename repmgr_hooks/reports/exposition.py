"""Prometheus' text format (prometheus.io/docs/instrumenting/exposition_formats): every metric, and how it is written.

Names and units follow prometheus.io/docs/practices/naming; moments are timestamps, not ages, for a file may grow old.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from repmgr_hooks.text import printable

PREFIX = "repmgr_hooks_"

METRICS = {
    "healthy": ("gauge", "1 if 'repmgr-hooks status' finds everything in the desired state."),
    "status_fresh": (
        "gauge",
        "1 if the service has looked lately; 0: 'serve-http' knows nothing of the cluster, and answers 503.",
    ),
    "primary_known": ("gauge", "1 if it is known which node is the primary; unknown moves no route."),
    "timeline": ("gauge", "The timeline of the primary."),
    "node_up": ("gauge", "1 if the node answered."),
    "node_is_primary": ("gauge", "1 for the primary that routes follow."),
    "node_is_stale_primary": ("gauge", "1 for a stale primary: out of recovery, on an older timeline."),
    "node_is_fenced": ("gauge", "1 for a former primary that repmgr_hooks has stopped, and that is no standby yet."),
    "rejoin_attempts": ("gauge", "How often it was tried lately to make this former primary a standby."),
    "node_lag_bytes": ("gauge", "WAL of the primary that the standby has not received."),
    "failover_possible": (
        "gauge",
        "1 if repmgr would promote a standby: its repmgrd watches, and nothing is against it.",
    ),
    "node_can_be_promoted": ("gauge", "1 for each standby that repmgr would promote."),
    "port_target": ("gauge", "1 for each node that the gateway's port leads to; 0 for every node: it is closed."),
    "reader_fit": ("gauge", "1 for each standby that streams and is near enough to be let in at the port for readers."),
    "reader_lag_bytes": ("gauge", "WAL of the primary that the standby behind a port for readers has not replayed."),
    "client_can_read": ("gauge", "1 if a client that tried it just now could read through the gateway's port."),
    "client_can_write": ("gauge", "1 if a client that tried it just now could write through the gateway's port."),
    "client_write_seconds": ("gauge", "How long that client took, from login to commit."),
    "pgbouncer_up": ("gauge", "1 if the admin console of the PgBouncer answered."),
    "clients_held": (
        "gauge",
        "1 if the clients of the PgBouncer's database wait: it is paused, by us or another.",
    ),
    "slot_retained_bytes": (
        "gauge",
        "WAL that a slot keeps on the node: Barman's, another of the routes, a failover slot.",
    ),
    "failover_slot_in_sync": ("gauge", "1 if a failover to the standby would keep the logical slot."),
    "barman_streaming": ("gauge", "1 if Barman streams from the primary through its slot."),
    "barman_lag_bytes": ("gauge", "WAL of the primary that Barman does not have on disk."),
    "archive_healthy": ("gauge", "0 if the last 'check-wal' found no backup that can be restored, or records amiss."),
    "pending_steps": ("gauge", "What 'repmgr-hooks reconcile' would do now."),
    "warnings": ("gauge", "What is wrong and cannot be fixed by a step."),
    "events_pending": ("gauge", "Events that no run has covered yet."),
    "paused": ("gauge", "1 while events are stored and nothing is done."),
    "retry_attempts": ("gauge", "Attempts of the last run, if it failed and may be tried again; else 0."),
    "last_poll_timestamp_seconds": ("gauge", "When the service last looked at the cluster by itself (its tick)."),
    "last_event_timestamp_seconds": ("gauge", "When the newest event of repmgr came."),
    "last_primary_change_timestamp_seconds": ("gauge", "When the current primary, or its timeline, was found."),
    "primary_changes_total": ("counter", "How often another node was found to be the primary."),
    "events_total": ("counter", "Events of repmgr, those replayed by hand too."),
    "runs_total": ("counter", "Runs that have ended, by what caused them."),
    "run_failures_total": ("counter", "Runs that have failed."),
    "step_duration_seconds": ("summary", "How long the steps of an action took."),
    "step_last_duration_seconds": ("gauge", "How long the newest step of an action took."),
    "step_failures_total": ("counter", "Steps that have failed."),
}


@dataclass(frozen=True)
class Sample:
    """One number of a metric; ``suffix``: ``_sum`` or ``_count`` of a summary."""

    metric: str
    labels: dict[str, str]
    value: float
    suffix: str = ""

    def __str__(self) -> str:
        labels = ",".join(f'{name}="{escaped(text)}"' for name, text in self.labels.items())
        return f"{PREFIX}{self.metric}{self.suffix}{{{labels}}} {self.value!r}"


def escaped(text: str) -> str:
    r"""Return the value of a label as it stands between quotes.

    >>> print(escaped('a "b" \\ c'))
    a \"b\" \\ c
    """
    return printable(text).replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def render(samples: Iterable[Sample]) -> str:
    """Return the text; all that belongs to a metric stands together, whatever cluster it is of."""
    of: dict[str, list[Sample]] = {name: [] for name in METRICS}
    for sample in samples:
        of[sample.metric].append(sample)
    lines = []
    for name, (kind, text) in METRICS.items():
        if of[name]:
            lines += [f"# HELP {PREFIX}{name} {text}", f"# TYPE {PREFIX}{name} {kind}", *map(str, of[name])]
    return "\n".join([*lines, ""])
