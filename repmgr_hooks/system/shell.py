"""A shell on a database node, as PostgreSQL's user: only for what PostgreSQL and repmgr hand to a shell themselves."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from shlex import quote

from repmgr_hooks.errors import OperationFailed
from repmgr_hooks.system.steps import Host, Program

LIMIT = 60.0
MARGIN = 15.0
TOO_LATE = 124
"""What ``timeout`` gives for a program that it has ended."""
ENDED = "repmgr-hooks: ended:"

# The script comes on stdin, so nothing has to survive the quoting of ssh. PATH is the postmaster's, for that of a login
# may find other programs. As with PostgreSQL, stdin is empty, and there is no terminal and no agent that ssh could ask.
SCRIPT = """
mkdir -m 700 {place} || exit
( cd {directory} || exit
  path=$({{ tr '\\0' '\\n' <"/proc/$(head -n 1 postmaster.pid)/environ" | sed -n 's/^PATH=//p'; }} 2>/dev/null)
  PATH=${{path:-$PATH}} env --unset=SSH_AUTH_SOCK timeout --kill-after=5 {limit:g} sh -c {line} ) </dev/null 2>&1
code=$?
size=$(stat --format=%s {file} 2>/dev/null)
rm -rf {place}
echo "{ended} $code ${{size:--1}}"
"""


@dataclass(frozen=True)
class Ran:
    """How a command line ended: its exit code, the bytes in ``Shell.file`` (-1: no such file), and what it wrote."""

    code: int
    size: int
    said: str

    @property
    def why(self) -> str:
        """The exit code and the end of what was written, on one line."""
        ended = "not finished in time" if self.code == TOO_LATE else f"exit code {self.code}"
        return f"{ended}: {' '.join(self.said.split())[-200:]}".removesuffix(": ")


@dataclass(frozen=True)
class Shell:
    """``command`` is what leads to the node, such as ssh; ``directory`` is the data directory, where lines are run.

    A line may write to ``file``, which stands in a directory of its own that is gone afterwards.
    """

    command: tuple[str, ...]
    directory: str
    host: Host
    limit: float = LIMIT
    place: str = field(default_factory=lambda: f"/tmp/repmgr-hooks-{secrets.token_hex(8)}")

    @property
    def file(self) -> str:
        """Where a line may put a file; PostgreSQL's own name for it (xlogarchive.c, RestoreArchivedFile)."""
        return f"{self.place}/RECOVERYXLOG"

    def run(self, line: str) -> Ran:
        """Run a line as ``system()`` does; after ``limit`` seconds it is ended (TOO_LATE). Raises OperationFailed."""
        script = SCRIPT.format(
            place=self.place,
            directory=quote(self.directory),
            limit=self.limit,
            line=quote(line),
            file=self.file,
            ended=ENDED,
        )
        output = self.host.run(Program((*self.command, "sh"), stdin=script), self.limit + MARGIN)
        said, mark, numbers = output.rpartition(ENDED)
        if not mark:
            raise OperationFailed(f"{' '.join(self.command)} sh: did not run to its end: {output.strip()}")
        code, size = numbers.split()
        return Ran(int(code), int(size), said.strip())
