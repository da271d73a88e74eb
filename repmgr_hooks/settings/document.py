"""YAML into frozen dataclasses, with every mistake reported at once: the line, the path, and what was expected."""

from __future__ import annotations

import dataclasses
import math
import re
import types
import typing
from collections.abc import Mapping
from typing import Annotated, Any

import yaml

from repmgr_hooks.catalogue import shorten
from repmgr_hooks.errors import Problem, UsageError, did_you_mean, listed, mistake
from repmgr_hooks.settings.schema import CONTROL, NOT_AN_OPTION, REST, OneOf, OnThisHost
from repmgr_hooks.settings.yaml_scalars import SCALARS, YAML_TAG, Loader

MOST_VALUES = 20_000
"""So many values may a file have when all its aliases are written out: a few lines can stand for billions."""
MOST_PROBLEMS = 50
WORDS = {str: "a string", int: "a whole number", float: "a number", bool: "true or false"}
IN_QUOTES = "put it in quotes"
SPELLING = {(str, int): IN_QUOTES, (str, float): IN_QUOTES, (int, str): "write it in plain decimals, without quotes"}
"""What to do if a value of the second type stands where the first is wanted."""


class TooMany(UsageError):
    """There are so many mistakes or values that the rest is not looked at; the message says which, as far as that."""


class Document:
    """A YAML text as plain data, with the line of every path, and the problems found so far."""

    def __init__(self, text: str, here: bool = True) -> None:
        self.here = here
        """Whether this host is looked at, too."""
        self.problems: list[Problem] = []
        self.unseen: list[str] = []
        """What was not looked at, because it is of another host."""
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

    def read(self, wanted: Any, value: Any, path: str) -> Any:
        """Return ``value`` as the type ``wanted``; mistakes are recorded, and None returned in their place."""
        origin, arguments = typing.get_origin(wanted), typing.get_args(wanted)
        if origin is Annotated:
            found = self.read(arguments[0], value, path)
            unread = found is None and arguments[0] is not Any  # then it is said already what is wrong
            return None if unread else self._checked(found, arguments[1:], path)
        if origin in (typing.Union, types.UnionType):
            (inner,) = (argument for argument in arguments if argument is not type(None))
            return self.read(inner, value, path)
        if origin is tuple:
            return self._read_list(arguments[0], value, path)
        if origin is Mapping:
            return self._read_mapping(arguments, value, path)
        if origin is typing.Literal:
            return self._checked(value, (OneOf(arguments),), path)
        if dataclasses.is_dataclass(wanted):
            return self._read_dataclass(typing.cast(type[Any], wanted), value, path)
        return self._read_scalar(wanted, value, path)

    def _read_scalar(self, wanted: type, value: Any, path: str) -> Any:
        if wanted is Any:
            return value
        if wanted is float and type(value) is int:
            return float(value)
        if type(value) is not wanted or (isinstance(value, float) and not math.isfinite(value)):
            no_number = isinstance(value, str) and not value[-1:].isdigit()
            hint = "" if no_number else SPELLING.get((wanted, type(value)), "")
            self.problem(path, f"must be {WORDS[wanted]}; got {shorten(value)}", hint)
            return None
        return value

    def _checked(self, value: Any, checks: tuple[Any, ...], path: str) -> Any:
        for check in checks:
            wrong = check.problem(value)
            if not wrong and isinstance(check, OnThisHost):
                wrong = self._looked_at(check, value)
            if wrong:
                self.problem(path, wrong.message, wrong.hint)
                return None
        return value

    def _looked_at(self, check: OnThisHost, value: Any) -> Problem | None:
        if self.here:
            return check.here(value)
        self.unseen += [check.unseen(value)]
        return None

    def _read_list(self, wanted: Any, value: Any, path: str) -> Any:
        if not isinstance(value, list):
            self.problem(path, f"must be a list; got {shorten(value)}")
            return None
        return tuple(self.read(wanted, item, f"{path}[{index}]") for index, item in enumerate(value))

    def _read_mapping(self, wanted: tuple[Any, ...], value: Any, path: str) -> Any:
        if not isinstance(value, dict) or not value:
            self.problem(path, "must be a mapping with at least one entry")
            return {}
        return {
            self.read(wanted[0], key, join(path, key)): self.read(wanted[1], item, join(path, key))
            for key, item in value.items()
        }

    def _read_dataclass(self, wanted: type[Any], value: Any, path: str) -> Any:
        if not isinstance(value, dict):
            self.problem(path, "must be a mapping of options")
            return None
        hints = typing.get_type_hints(wanted, include_extras=True)
        rest = next((field.name for field in dataclasses.fields(wanted) if field.metadata == REST), None)
        fields = {option(field): field for field in dataclasses.fields(wanted) if is_option(field)}
        for key in () if rest else [key for key in value if key not in fields]:
            self.problem(join(path, key), "unknown option", did_you_mean(key, fields))
        for name, field in fields.items():
            if name not in value and field.default is field.default_factory is dataclasses.MISSING:
                self.problem(path, f"the option {name!r} is missing")
        before = len(self.problems)
        given = {
            field.name: self.read(hints[field.name], value[name], join(path, name))
            for name, field in fields.items()
            if name in value
        }
        others = {key: item for key, item in value.items() if key not in fields}
        if rest and others:
            given[rest] = self.read(hints[rest], others, path)
        missing = [f for f in fields.values() if f.name not in given and f.default is f.default_factory]
        return None if missing or len(self.problems) > before else wanted(**given)


def is_option(field: dataclasses.Field[Any]) -> bool:
    """Return whether the file can set a field by its own name."""
    return field.metadata not in (NOT_AN_OPTION, REST)


def option(field: dataclasses.Field[Any]) -> str:
    """Return what a field is called in the file; ``from`` and the like cannot be names in Python."""
    return str(field.metadata.get("option") or field.name)


def join(path: str, key: object) -> str:
    """Return the path of ``key`` below ``path``."""
    return f"{path}.{key}" if path else str(key)


def shown(path: str) -> str:
    """Return a path as it can be printed: keys are foreign text."""
    return "".join(character if character.isprintable() else ascii(character)[1:-1] for character in path[:200])
