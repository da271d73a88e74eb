"""The READMEs as blocks, and as the source of a manual page (man(7)). As much of Markdown as they use."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Block:
    """A ``heading`` of a ``level``, a ``paragraph``, ``code``, ``bullets`` or a ``table``; a line or item, or a row."""

    kind: str
    lines: tuple[str, ...]
    level: int = 0


def blocks(text: str) -> Iterator[Block]:
    """Yield the blocks of a text.

    >>> [(block.kind, block.lines) for block in blocks("# A\\n\\nb\\nc\\n\\n    d\\n\\n     e\\n\\n- f\\n  g\\n- h\\n")]
    [('heading', ('A',)), ('paragraph', ('b c',)), ('code', ('d', '', ' e')), ('bullets', ('f g', 'h'))]
    """
    lines = text.splitlines()
    while lines:
        kind = _kind(lines[0])
        taken = list(itertools.takewhile(_belongs_to(kind), lines)) or lines[:1]
        lines = lines[len(taken) :]
        if kind == "heading":
            marks, _, heading = taken[0].partition(" ")
            yield Block(kind, (heading,), len(marks))
        elif kind == "code":
            yield Block(kind, tuple(line[4:] for line in "\n".join(taken).rstrip().splitlines()))
        elif kind == "bullets":
            yield Block(kind, tuple(" ".join(item.split()) for item in "\n".join(taken)[2:].split("\n- ")))
        elif kind == "table":
            yield Block(kind, (taken[0], *taken[2:]))
        elif kind == "paragraph":
            yield Block(kind, (" ".join(taken),))


def _kind(line: str) -> str:
    starts = {"#": "heading", "|": "table", "- ": "bullets", "    ": "code"}
    return next((kind for start, kind in starts.items() if line.startswith(start)), "paragraph" if line else "")


def _belongs_to(kind: str) -> Callable[[str], bool]:
    """A heading is one line; what is code goes on after an empty line, other blocks end there."""
    if kind == "code":
        return lambda line: not line or line.startswith("    ")
    if kind == "bullets":
        return lambda line: line.startswith(("- ", "  "))
    return lambda line: kind in ("table", "paragraph") and _kind(line) == kind


def section(text: str, heading: str) -> str:
    """Return what stands below a heading of the second level."""
    return text.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]


def cells(row: str) -> list[str]:
    """Return the cells of a row of a table."""
    return [cell.strip() for cell in row.strip().strip("|").split("|")]


# -- a manual page -----------------------------------------------------------------------------------------------------

LETTERS = {"\\": r"\e", "-": r"\-", "'": r"\(aq", "`": r"\(ga", "^": r"\(ha", "~": r"\(ti"}
"""Characters that would be typeset as others (groff_char(7)), in what is to be copied and typed."""


def typed(text: str) -> str:
    """Return text that may be copied into a shell or a file."""
    return "".join(LETTERS.get(letter, letter) for letter in text)


def inline(text: str) -> str:
    r"""Return a line of Markdown as roff.

    >>> inline("`a-b` and **c** in [d](e.md): f-g")
    '\\fBa\\-b\\fP and \\fBc\\fP in d: f-g'
    """
    found = []
    for part in re.split(r"(\*\*.+?\*\*|`[^`]+`)", re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", text)):
        if part[:1] in ("`", "*") and len(part) > 1:
            found.append(rf"\fB{typed(part.replace('`', '').strip('*'))}\fP")
        else:
            found.append(part.replace("\\", r"\e"))
    return protected("".join(found))


def protected(line: str) -> str:
    """Return a line that is no request, whatever it begins with."""
    return rf"\&{line}" if line.startswith((".", "'")) else line


def roff(parts: Iterable[Block], top: int = 2) -> Iterator[str]:
    """Yield the lines of a manual page; headings of the level ``top`` become sections."""
    fresh = True
    for block in parts:
        if block.kind == "heading":
            title = block.lines[0].replace("`", "")
            yield f'.SH "{title.upper()}"' if block.level <= top else f'.SS "{title}"'
        elif block.kind == "paragraph":
            yield from ([] if fresh else [".PP"])
            yield inline(block.lines[0])
        elif block.kind == "code":
            yield from ([".RS 4"] if fresh else [".PP", ".RS 4"])
            yield from (".nf", *(protected(typed(line)) for line in block.lines), ".fi", ".RE")
        elif block.kind == "bullets":
            yield from (line for item in block.lines for line in (r".IP \(bu 2", inline(item)))
        else:
            yield from _rows(block)
        fresh = block.kind == "heading"


def _rows(table: Block) -> Iterator[str]:
    """Yield a table as a list: what its first column names, and the other columns below that."""
    header, *rows = map(cells, table.lines)
    for first, *others in rows:
        yield from (".TP", inline(first))
        if header[0] == "option" and len(header) == 5:
            kind, unit, default, meaning = others
            said = default if default == "required" else f"default: {default}"
            others = [f"{kind}{unit and f', in {unit}'}; {said}", meaning]
        elif len(header) > 2:
            others = [
                f"{name}: {cell}" if name else cell for name, cell in zip(header[1:], others, strict=True) if cell
            ]
        yield "\n.br\n".join(map(inline, others))
