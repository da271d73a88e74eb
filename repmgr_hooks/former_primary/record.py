"""Which nodes we have stopped, and how far each has come: a small file, on disk before anything it says is done.

Only a node that stands in it is ever rejoined: one that somebody else has stopped is none of ours.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal, get_args

from repmgr_hooks.background import on_disk
from repmgr_hooks.errors import OperationFailed
from repmgr_hooks.journal import holds
from repmgr_hooks.settings.cluster import Cluster
from repmgr_hooks.settings.former_primary import FormerPrimary

Phase = Literal["fence", "fenced", "rejoin", "clone", "done"]
"""``fence``: it is about to be stopped. ``fenced``: it was. ``rejoin``, ``clone``: what is done to it, or was last.
``done``: it is none any more, and only its attempts are counted."""
NO_RECORD = "no_former_record"


@dataclass(frozen=True)
class Former:
    """A former primary: as what it was seen, beside which ``primary``, and how far it has come.

    ``directory``, ``path``: its data directory, and the PATH of its postmaster. ``job``: the name of what runs there.
    ``by_power``: a program has switched it off. ``rewound``: a rewind was tried, so that its files are no more what
    they were. ``attempts``: when it was tried to rejoin it, in seconds since the epoch; ``problem``: what went wrong
    last.
    """

    node: int
    system_identifier: str
    timeline: int
    primary: int
    since: float
    phase: Phase = "fence"
    directory: str = ""
    path: str = ""
    conf: str = "/etc/repmgr.conf"
    job: str = ""
    begun: float = 0.0
    by_power: bool = False
    rewound: bool = False
    attempts: tuple[float, ...] = ()
    problem: str = ""
    hint: str = ""

    @property
    def stopped(self) -> bool:
        """True once it was seen that it is stopped."""
        return self.phase not in ("fence", "done")

    def recent(self, window: float, now: float) -> int:
        """Return how many attempts there were lately; those of a time to come count, for the clock was set back."""
        return sum(now - attempt < window for attempt in self.attempts)

    def gave_up(self, settings: FormerPrimary, now: float) -> bool:
        """True if it stays stopped, because it was tried often enough."""
        return self.stopped and not self.job and self.recent(settings.limit.window, now) >= settings.limit.attempts

    def why_given_up(self, settings: FormerPrimary) -> str:
        """Return why nothing more is tried."""
        limit = settings.limit
        last = self.problem or "it was started, and came back as a primary"
        return f"{limit.attempts} attempt(s) to rejoin it in {limit.window} s; the last: {last}"

    def begins(self, phase: Phase, job: str, now: float) -> Former:
        """Return it with a rewind or a clone that begins now, an attempt each."""
        attempts = (*self.attempts, now)[-MOST_ATTEMPTS:]
        return replace(self, phase=phase, job=job, begun=now, attempts=attempts, problem="", hint="")


MOST_ATTEMPTS = 1000


def read(cluster: Cluster) -> dict[int, Former]:
    """Return the former primaries of a cluster by their nodes. Raises OperationFailed."""
    if not cluster.state_dir:
        return {}
    path = _path(cluster)
    try:
        return _parsed(on_disk(partial(holds.read_text, path)))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, KeyError, AttributeError, ArithmeticError, RecursionError) as error:
        what = f"{path} cannot be read: {error!r}; no node is stopped or rejoined"
        raise OperationFailed(what, code=NO_RECORD, hint=holds.way_out(error, path)) from None


def keep(cluster: Cluster, formers: Mapping[int, Former]) -> None:
    """Write them so that they are on disk; without any there is no file. Raises OperationFailed."""
    path = _path(cluster)
    text = json.dumps([asdict(former) for former in formers.values()])
    try:
        on_disk(partial(holds.write_durably, path, text) if formers else partial(path.unlink, missing_ok=True))
    except OSError as error:
        what = f"{path} cannot be written: {error}; no node is stopped or rejoined"
        raise OperationFailed(what, code=NO_RECORD, hint="repair the state directory") from None


def _parsed(text: str) -> dict[int, Former]:
    found = [Former(**{**item, "attempts": tuple(map(float, item["attempts"]))}) for item in json.loads(text)]
    for former in found:
        numbers = (former.since, former.begun, *former.attempts)
        whole = type(former.node) is type(former.timeline) is type(former.primary) is int
        names = all(re.fullmatch("[0-9a-f]*", name) for name in (former.job,))
        if not (whole and names and former.phase in get_args(Phase) and all(map(math.isfinite, numbers))):
            raise ValueError("it holds something else")
    return {former.node: former for former in found}


def _path(cluster: Cluster) -> Path:
    return Path(cluster.state_dir) / f"cluster-{cluster.name}.former"
