"""What stands in the READMEs: commands, samples of output, links. Output is compared by its shape, not its numbers."""

from __future__ import annotations

import itertools
import re
import shlex
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from repmgr_hooks.cli.main import COMMANDS

REPOSITORY = Path(__file__).resolve().parents[1]
FILES = (
    "README.md",
    "config/README.md",
    "systemd/README.md",
    "repmgr_hooks/README.md",
    "repmgr_hooks/cli/README.md",
    "repmgr_hooks/handlers/README.md",
    "tests/README.md",
)
TEXTS = {name: (REPOSITORY / name).read_text() for name in FILES}
README, HANDLERS = TEXTS["README.md"], TEXTS["repmgr_hooks/handlers/README.md"]

PROGRAM = re.compile(r"^(?:\S*/)?repmgr-hooks$")
PLACEHOLDERS = {
    "NODE": "2",
    "EVENT": "standby_promote",
    "N": "1",
    "FILE": "x.prom",
    "NAME": "main",
    "COMMAND": "status",
}
"""What a word in capital letters stands for."""


@dataclass(frozen=True)
class Sample:
    """A command line of repmgr-hooks, without the program's name, and the lines of output that are shown below it."""

    words: tuple[str, ...]
    output: tuple[str, ...]


def blocks(text: str) -> list[list[str]]:
    """Return the blocks of code: lines that are four characters in or more, and the empty ones between them.

    >>> blocks("a\\n\\n    b\\n\\n\\n      c\\n\\nd\\n     e\\n")
    [['b', '', '', '  c'], ['e']]
    """
    found: list[list[str]] = [[]]
    for line in text.splitlines():
        if line.startswith("    ") or (not line and found[-1]):
            found[-1].append(line)
        elif found[-1]:
            found.append([])
    return [textwrap.dedent("\n".join(lines)).rstrip().splitlines() for lines in found if lines]


def block(begins: str, text: str = README) -> str:
    """Return the block that begins with a line."""
    return next("\n".join(lines) for lines in blocks(text) if lines[0].startswith(begins))


def section(heading: str, text: str) -> str:
    """Return what stands below a heading, up to the next one of its level or above."""
    rest = text[text.index(f"\n{heading}\n") + 1 :]
    level = heading.split()[0]
    end = re.search(rf"\n#{{1,{len(level)}}} ", rest[len(heading) :])
    return rest[: end.start() + len(heading)] if end else rest


def filled(words: list[str]) -> list[str]:
    """Return a command line with something in the place of each placeholder."""
    return [PLACEHOLDERS.get(word, word) for word in words]


def commands(text: str) -> Iterator[list[str]]:
    """Yield each command line of repmgr-hooks in blocks of code and between backticks."""
    inline = re.findall(r"`([^`\n]+)`", text)
    for line in [*(line for lines in blocks(text) for line in lines), *inline]:
        for part in re.split(r" && | \| |; ", re.sub(r"\s+#.*", "", line.removeprefix("$ "))):
            try:
                words = shlex.split(part)
            except ValueError:  # a quote that ends elsewhere: no command line
                continue
            if len(words) > 1 and PROGRAM.match(words[0]) and (words[1] in COMMANDS or words[1].islower()):
                yield filled(words[1:])


def samples(text: str) -> list[Sample]:
    """Return the commands whose output is shown: lines that begin with a dollar, and what follows them in the block."""
    found = []
    for lines in blocks(text):
        starts = [number for number, line in enumerate(lines) if line.startswith("$ ")]
        for start, end in itertools.pairwise([*starts, len(lines)]):
            words = filled(shlex.split(lines[start].removeprefix("$ "))[1:])
            found.append(Sample(tuple(words), tuple(line for line in lines[start + 1 : end] if line)))
    return found


def sample(command: str, text: str) -> Sample:
    """Return the first sample of a command, which is named without the program, in a text."""
    words = tuple(filled(command.split()))
    return next(found for found in samples(text) if found.words == words)


def shape(line: str) -> str:
    """Return a line with numbers, times and names of WAL files made equal.

    >>> shape("   2.25 s    0.02 s  route port app to node 2 (10.0.0.12)")
    '# s # s route port app to node # (#)'
    >>> shape("OK: 000000010000000000000004 to 0/3000028, 16 kB"), shape("...")
    ('OK: # to #, # B', '...')
    """
    line = re.sub(r"\b([0-9A-F]{24}|[0-9A-F]+/[0-9A-F]+|[0-9A-F]{8}\.history)\b", "0", line)
    line = re.sub(r"-?\d+([.:-]\d+)*", "#", line)
    return re.sub(r"\s+", " ", re.sub(r"# (kB|MB|GB)\b", "# B", line)).strip()


def difference(shown: tuple[str, ...], said: str) -> str:
    """Return what is said in another shape than what is shown, as a text to read; nothing, if it is the same.

    ``...`` stands for any lines, and at the end of a line for the rest of it.

    >>> difference(("a 1", "...", "b ..."), "a 22\\n\\nx\\nb y z\\n")
    ''
    >>> difference(("a", "c"), "a\\nb\\n")
    'shown: c, said: a / b'
    """
    lines = [found for line in said.splitlines() if (found := shape(line))]
    at, anywhere = 0, False
    for line in map(shape, shown):
        if line == "...":
            anywhere = True
            continue
        fits = [n for n, other in enumerate(lines[at:], at) if _fits(line, other)]
        if not fits or (fits[0] != at and not anywhere):
            return f"shown: {line}, said: {' / '.join(lines)}"
        at, anywhere = fits[0] + 1, False
    return "" if anywhere or at == len(lines) else f"not shown: {lines[at]}"


def _fits(shown: str, said: str) -> bool:
    return said.startswith(shown[:-3].rstrip()) if shown.endswith("...") else said == shown
