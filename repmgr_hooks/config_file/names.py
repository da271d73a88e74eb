"""The names of the clusters as they stand in the file, without YAML, which takes as long as all else of a command."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from repmgr_hooks.config_file import text_of
from repmgr_hooks.errors import UsageError, did_you_mean
from repmgr_hooks.settings.words import PLAIN_NAME

SECTION = re.compile(r"['\"?]?clusters\b")
HEADING = re.compile(r"clusters: *(#.*)?")
ENTRY = re.compile(rf"({PLAIN_NAME}): *(#.*)?", re.ASCII)
END = re.compile(r"[A-Za-z_]+:( |$)|---|\.\.\.")
"""What ends the clusters: an option of the file, or the document. A bracket that is closed here does not."""
PLACE = re.compile(r"state_dir: +[^\s'\"#]+ *( #.*)?")
NO_NAMES = ("null", "true", "false")
"""YAML reads these as something else than a string."""


def meant(path: Path, name: str | None) -> list[str]:
    """Return the named one of the clusters in the file, or all of them. Raises UsageError."""
    found = plain(text_of(path))
    if found is None:
        from repmgr_hooks.config_file.outline import outline  # YAML reads whatever may be written

        found = outline(path).clusters
    return named(path, found, name)


def named(path: Path, clusters: Iterable[str], name: str | None) -> list[str]:
    """Return the named one of the clusters, or all of them. Raises UsageError."""
    if name is not None and name not in clusters:
        raise UsageError(f"{path} has no cluster {name!r}", hint=did_you_mean(name, clusters))
    return list(clusters) if name is None else [name]


def plain(text: str) -> tuple[str, ...] | None:
    """Return the names of the clusters, if each stands on a line of its own; else None, and YAML must be asked.

    So must it where ``state_dir`` is not written as the hook reads it: what is paused elsewhere is not paused.
    The service reads no configuration of which YAML says something else (``outline.check_names``).

    >>> plain("state_dir: /var/lib/x\\nclusters:\\n  main:\\n    nodes: {}\\n  other:  # the second\\n    nodes: {}\\n")
    ('main', 'other')
    >>> plain("clusters: {main: {}}")
    """
    lines = text.split("\n")
    headings = [number for number, line in enumerate(lines) if SECTION.match(line)]
    if len(headings) != 1 or not HEADING.fullmatch(lines[headings[0]]) or not all(map(str.isprintable, lines)):
        return None
    places = [line for line in lines if "state_dir" in line and not line.lstrip().startswith("#")]
    if len(places) > 1 or not all(map(PLACE.fullmatch, places)):
        return None
    names: list[str] = []
    depth = 0
    for line in lines[headings[0] + 1 :]:
        words = line.lstrip(" ")
        if not words or words[0] == "#":
            continue
        indent = len(line) - len(words)
        if indent == 0 and END.match(line):
            break
        depth = depth or indent
        if indent > depth:
            continue
        entry = ENTRY.fullmatch(words)
        if not indent or indent < depth or not entry or entry[1].lower() in NO_NAMES or entry[1] in names:
            return None
        names.append(entry[1])
    return tuple(names) or None
