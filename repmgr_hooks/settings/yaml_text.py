"""YAML as plain data: every mistake is kept with its line, and little text stays little data."""

from __future__ import annotations

import re
from typing import Any

import yaml

from repmgr_hooks.catalogue import shorten
from repmgr_hooks.errors import Problem, UsageError, listed, mistake
from repmgr_hooks.settings.yaml_scalars import SCALARS, YAML_TAG, Loader
from repmgr_hooks.text import CONTROL

MOST_VALUES = 100_000
"""So many values may a file have when all its aliases are written out: a few lines can stand for billions. A hundred
clusters of three nodes and ten ports have some 21,000."""
MOST_PROBLEMS = 50


class TooMany(UsageError):
    """There are so many mistakes or values that the rest is not looked at; the message says which, as far as that."""


class YamlText:
    """A YAML text as plain data, with the line of every path, and the problems found so far."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.problems: list[Problem] = []
        self._lines: dict[str, int] = {}
        self._values = 0
        self.data = self._plain(yaml.compose(text, Loader=Loader), "")

    def problem(self, path: str, message: str, hint: str = "") -> None:
        """Record a mistake at ``path``. Raises TooMany."""
        if len(self.problems) == MOST_PROBLEMS:
            raise TooMany(listed(f"{MOST_PROBLEMS} mistakes, and more:", self.problems))
        self.problems.append(mistake(f"line {self._line(path)}: {shown(path)}: {message}" if path else message, hint))

    def _line(self, path: str) -> int:
        while path and path not in self._lines:
            path = path[: max(path.rfind("."), path.rfind("["), 0)]
        return self._lines.get(path, 1)

    def _plain(self, node: yaml.Node | None, path: str) -> Any:
        if node is None:
            return None
        self._values += 1
        if self._values > MOST_VALUES:
            raise TooMany(f"it has more than {MOST_VALUES} values", hint="write less, or fewer aliases (*)")
        self._lines.setdefault(path, node.start_mark.line + 1)
        kind = node.tag.removeprefix(YAML_TAG)
        if isinstance(node, yaml.SequenceNode) and kind == "seq":
            return [self._plain(item, f"{path}[{index}]") for index, item in enumerate(node.value)]
        if isinstance(node, yaml.MappingNode) and kind == "map":
            return self._mapping(node, path)
        return self._scalar(kind, node.value if isinstance(node, yaml.ScalarNode) else "", path)

    def _scalar(self, kind: str, text: str, path: str) -> Any:
        pattern, _, made = SCALARS.get(kind, ("(?!)", [], str))
        try:
            if not re.fullmatch(pattern, text):
                raise ValueError
            value = made(text)
        except ValueError:  # also for a number of more digits than Python reads
            self.problem(path, f"cannot be read as {shorten(kind).strip(chr(39))}: {shorten(text)}")
            return None
        if isinstance(value, str) and CONTROL.search(value):
            self.problem(path, f"holds a control character, or half a character: {shorten(value)}")
            return None
        return value

    def _mapping(self, node: yaml.MappingNode, path: str) -> dict[Any, Any]:
        result: dict[Any, Any] = {}
        for key_node, value_node in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                self.problem(path or "<<", "merge keys ('<<') are not read here", "write it out")
                continue
            known = len(self.problems)
            key = self._plain(key_node, f"{path}.?")
            inner = join(path, key)
            self._lines[inner] = key_node.start_mark.line + 1
            if not isinstance(key, str | int) or isinstance(key, bool) or key in result:
                twice = isinstance(key, str | int) and key in result
                if len(self.problems) == known:
                    self.problem(inner, "this key appears twice" if twice else "not a plain key")
                continue
            result[key] = self._plain(value_node, inner)
        return result


def join(path: str, key: object) -> str:
    """Return the path of ``key`` below ``path``."""
    return f"{path}.{key}" if path else str(key)


def shown(path: str) -> str:
    """Return a path as it can be printed: keys are foreign text."""
    return "".join(character if character.isprintable() else ascii(character)[1:-1] for character in path[:200])
