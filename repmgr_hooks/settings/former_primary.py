"""What becomes of a former primary that runs on beside the new one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from repmgr_hooks.settings.schema import AbsolutePath, Amount, Pattern, Positive, ProgramWords, Range, Timeout
from repmgr_hooks.settings.words import amount

FileName = Annotated[
    str, Pattern(r"(?!.*(^|/)\.\.?(/|$))[A-Za-z0-9_.][A-Za-z0-9_./-]*", "the name of a file in the data directory")
]


@dataclass(frozen=True)
class Fence:
    """How a stale primary is stopped: by repmgr on the node, within ``timeout`` seconds.

    ``program``: what is run instead if that does not work, with as much time: it switches the node off.
    """

    timeout: Timeout = 90
    program: ProgramWords = ()


@dataclass(frozen=True)
class AttemptLimit:
    """After so many ``attempts`` to rejoin a node in ``window`` seconds it stays stopped."""

    attempts: Positive = 3
    window: Positive = 86400


@dataclass(frozen=True)
class FormerPrimary:
    """A stale primary is stopped; with ``rejoin`` its own WAL is kept, and it is made a standby again.

    ``clone``: where it is cloned from if it cannot be rewound. ``config_files``: the node's own files in its data
    directory, which pg_rewind and a clone would replace by the primary's. ``directory``: where on the node the WAL is
    kept; without it, beside the data directory. ``timeout``: seconds for a rewind, or a clone.
    """

    fence: Fence = Fence()
    rejoin: bool = True
    clone: Literal["never", "primary", "barman"] = "never"
    config_files: tuple[FileName, ...] = ()
    directory: AbsolutePath = ""
    max_kept_wal: Amount = "10GB"
    kept_copies: Annotated[int, Range(1, 100)] = 3
    timeout: Annotated[int, Range(1, 604800)] = 21600
    limit: AttemptLimit = AttemptLimit()

    def area(self, cluster: str, node: int, data: str) -> str:
        """Return where on a node its own WAL is kept, given its data directory."""
        return f"{self.directory}/{cluster}-{node}" if self.directory else f"{data.rstrip('/')}.former"

    @property
    def most_bytes(self) -> int:
        """How much WAL of one node may be kept; one that has more stays stopped."""
        return amount(self.max_kept_wal)
