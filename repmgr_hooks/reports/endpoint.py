"""What ``serve-http`` answers load balancers about a cluster now, for ``status``: asked of what it answers from.

Whether it runs is what the kernel says of processes: it may listen anywhere, and has no right to leave a mark.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from repmgr_hooks.journal.last_seen import read_all
from repmgr_hooks.reports.health import OK, Known, answer
from repmgr_hooks.settings.cluster import Cluster

CHECKS = ("primary", "replica")
RUNTIME = Path("/run/repmgr-hooks")
"""As its unit and the service's have it."""
PROGRAM, COMMAND = (b"repmgr-hooks", b"repmgr_hooks"), b"serve-http"


@dataclass(frozen=True)
class Endpoint:
    """``running``: whether it is there to answer; ``answers``: of each check, the status code for each node."""

    running: bool
    answers: dict[str, dict[int, int]]

    def __str__(self) -> str:
        if not self.running:
            return "serve-http is not running"
        return "; ".join(f"/{check} answers {_by_status(of)}" for check, of in self.answers.items())


def _by_status(of: dict[int, int]) -> str:
    """Name those with 200; it is 503 for the others.

    >>> _by_status({1: 200, 2: 503}), _by_status({1: 503, 2: 503})
    ('200 for node 1', '200 for no node')
    """
    good = [f"node {node}" for node, status in of.items() if status == OK]
    return f"200 for {' and '.join(good) or 'no node'}"


def look(clusters: Iterable[Cluster], directory: Path, proc: Path = Path("/proc")) -> dict[str, Endpoint]:
    """Return for each cluster what a load balancer is answered for each node."""
    # Each of a hundred clusters has a file there, and there are thousands of processes: read once for all.
    known, there = [Known(*item) for item in read_all(directory)], any(running(proc))
    return {cluster.name: Endpoint(there, _answers(cluster, known)) for cluster in clusters}


def _answers(cluster: Cluster, known: Sequence[Known]) -> dict[str, dict[int, int]]:
    return {
        check: {node: answer(f"/{cluster.name}/nodes/{node}/{check}", known, 0.0).status for node in cluster.nodes}
        for check in CHECKS
    }


def running(proc: Path) -> Iterator[bool]:
    """Yield True for each process that is ``repmgr-hooks serve-http``."""
    for path in proc.glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue  # it has ended
        # Python, perhaps an option of its, the program; then options of all commands (--config), and the command.
        place = next(
            (number for number, word in enumerate(words[:3]) if word.rpartition(b"/")[2] in PROGRAM), len(words)
        )
        if COMMAND in words[place + 1 : place + 4]:
            yield True
