"""The configuration in outline: where the state is, and the names of the clusters.

That is all that a pause needs. What else stands in the file may be wrong: the service goes on with what
it has read before, and it must be possible to pause it then.
"""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import yaml

from repmgr_hooks import config_file
from repmgr_hooks.catalogue import shorten
from repmgr_hooks.config_file import names
from repmgr_hooks.errors import UsageError, listed
from repmgr_hooks.hook import STATE_DIR, state_dir_in
from repmgr_hooks.settings.words import DIRECTORY, PLAIN_NAME
from repmgr_hooks.settings.yaml_text import TooMany, YamlText, join

Text = TypeVar("Text", bound=YamlText)


@dataclass(frozen=True)
class Outline:
    """Of the file, its path, the state directory and the names of the clusters."""

    path: Path
    state_dir: Path
    clusters: tuple[str, ...]


def outline(path: Path) -> Outline:
    """Read the file in outline. Raises UsageError, as ``config.load`` does, for what cannot be read even so."""
    document = read(path, YamlText)
    data = document.data if isinstance(document.data, dict) else {}
    place, clusters = data.get("state_dir", STATE_DIR), data.get("clusters")
    with size_limited(path):
        if not (isinstance(place, str) and re.fullmatch(DIRECTORY, place)):
            document.problem("state_dir", f"must be an absolute path without blanks and '..'; got {shorten(place)}")
        check_state_dir(document, place)
        if not isinstance(clusters, dict) or not clusters:
            document.problem("clusters", "must be a mapping with at least one entry")
            clusters = {}
        for name in clusters:
            if not (isinstance(name, str) and re.fullmatch(PLAIN_NAME, name)):
                what = f"must be a plain name (letters, digits, _ . -); got {shorten(name)}"
                document.problem(join("clusters", name), what)
    refuse(path, document)
    return Outline(path, Path(place), tuple(clusters))


def check_state_dir(document: YamlText, place: object) -> None:
    """Record that the hook would look elsewhere than the file says."""
    if not document.problems and state_dir_in(io.StringIO(document.text, newline=None)) != place:
        document.problem("state_dir", "the hook reads this line without YAML", "write plainly 'state_dir: PATH'")


def check_names(document: YamlText, clusters: Iterable[str]) -> None:
    """Record that a command which does without YAML would find other clusters than the file has."""
    if not document.problems and names.plain(document.text) not in (None, tuple(clusters)):
        what = "commands read these names without YAML, and find others"
        document.problem("clusters", what, "write each name plainly, on a line of its own")


def read(path: Path, kind: Callable[[str], Text], here: bool = True) -> Text:
    """Read the text of the file. Raises UsageError for what is no YAML, or what others could have written."""
    text = config_file.text_of(path, here)
    try:
        with size_limited(path):
            document = kind(text)
    except RecursionError:
        raise UsageError(f"{path}: nested too deeply, or a part that contains itself") from None
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise UsageError(f"{path}: line {line}: not YAML: {error.problem}") from None
    except yaml.YAMLError as error:
        raise UsageError(f"{path}: not YAML: {' '.join(str(error).split())}") from None
    refuse(path, document)
    return document


def refuse(path: Path, document: YamlText) -> None:
    """Raises UsageError that lists the mistakes, if there are any."""
    if count := len(document.problems):
        raise UsageError(listed(f"{path}: {count} mistake{'s'[: count != 1]}:", document.problems))


@contextlib.contextmanager
def size_limited(path: Path) -> Iterator[None]:
    """Of too many mistakes, or values, say in which file."""
    try:
        yield
    except TooMany as error:
        raise UsageError(f"{path}: {error}", hint=error.hint) from None
