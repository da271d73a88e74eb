"""YAML into frozen dataclasses, with every mistake reported at once: the line, the path, and what was expected."""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from functools import cache
from typing import Annotated, Any

from repmgr_hooks.catalogue import shorten
from repmgr_hooks.errors import Problem, did_you_mean
from repmgr_hooks.settings.schema import NOT_AN_OPTION, REST, OneOf, OnThisHost
from repmgr_hooks.settings.yaml_text import YamlText, join

WORDS = {str: "a string", int: "a whole number", float: "a number", bool: "true or false"}
IN_QUOTES = "put it in quotes"
SPELLING = {(str, int): IN_QUOTES, (str, float): IN_QUOTES, (int, str): "write it in plain decimals, without quotes"}
"""What to do if a value of the second type stands where the first is wanted."""


class Document(YamlText):
    """What is read from a YAML text, as the types that are wanted."""

    def __init__(self, text: str, here: bool = True) -> None:
        super().__init__(text)
        self.here = here
        """Whether this host is looked at, too."""
        self.unseen: list[str] = []
        """What was not looked at, because it is of another host."""

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
            if not wrong and _is_of_this_host(type(check)):  # type: ignore[arg-type]  # as below
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
        hints = _types_of(wanted)  # type: ignore[arg-type]  # mypy takes no class for hashable
        rest, fields = _options_of(wanted)  # type: ignore[arg-type]
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


@cache
def _types_of(wanted: type[Any]) -> dict[str, Any]:
    """Return the types of its fields; each of a hundred clusters has the same, and their text is compiled anew."""
    return typing.get_type_hints(wanted, include_extras=True)


@cache
def _options_of(wanted: type[Any]) -> tuple[str | None, Mapping[str, dataclasses.Field[Any]]]:
    """Return the field that takes what has no other, and the fields by what they are called in the file."""
    fields = dataclasses.fields(wanted)
    rest = next((field.name for field in fields if field.metadata == REST), None)
    return rest, {option(field): field for field in fields if is_option(field)}


@cache
def _is_of_this_host(check: type[Any]) -> bool:
    """Whether a check looks at this host. To ask a protocol takes as long as to read ten values."""
    return issubclass(check, OnThisHost)


def is_option(field: dataclasses.Field[Any]) -> bool:
    """Return whether the file can set a field by its own name."""
    return field.metadata not in (NOT_AN_OPTION, REST)


def option(field: dataclasses.Field[Any]) -> str:
    """Return what a field is called in the file; ``from`` and the like cannot be names in Python."""
    return str(field.metadata.get("option") or field.name)
