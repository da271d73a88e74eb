"""YAML into frozen dataclasses, with every mistake reported at once: the line, the path, and what was expected."""

from __future__ import annotations

import dataclasses
import ipaddress
import re
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import yaml

from repmgr_hooks.catalogue import shorten
from repmgr_hooks.errors import did_you_mean


@dataclass(frozen=True)
class Pattern:
    """A string must match ``pattern``; ``means`` says so in words."""

    pattern: str
    means: str

    def problem(self, value: str) -> str:
        return "" if re.fullmatch(self.pattern, value, re.ASCII) else f"must be {self.means}; got {shorten(value)}"


@dataclass(frozen=True)
class Range:
    """A number must lie between two others, both included."""

    low: float
    high: float

    def problem(self, value: float) -> str:
        return "" if self.low <= value <= self.high else f"must be between {self.low} and {self.high}; got {value}"


@dataclass(frozen=True)
class NotEmpty:
    """A list must have an entry."""

    def problem(self, value: tuple[Any, ...]) -> str:
        return "" if value else "must not be empty"


@dataclass(frozen=True)
class IpAddress:
    """A string must be an IPv4 or IPv6 address, spelt as ``iptables-save`` prints it: rules are compared as text."""

    def problem(self, value: str) -> str:
        try:
            address = ipaddress.ip_address(value)
        except ValueError:
            return f"must be an IP address (netfilter rules hold no names); got {shorten(value)}"
        if "%" in value:
            return f"must be an address without a scope; got {shorten(value)}"
        return "" if str(address) == value else f"must be spelt {address}; got {shorten(value)}"


Address = Annotated[str, IpAddress()]
Port = Annotated[int, Range(1, 65535)]
Positive = Annotated[int, Range(1, 86400)]
Identifier = Annotated[str, Pattern(r"[A-Za-z_][A-Za-z0-9_.-]{0,62}", "a plain name (letters, digits, _ . -)")]

NOT_AN_OPTION = {"option": False}
"""Metadata of a dataclass field that the file cannot set."""

WORDS = {str: "a string", int: "a whole number", float: "a number", bool: "true or false"}


class Loader(yaml.SafeLoader):
    """YAML in which ``on``, ``off``, ``yes`` and ``no`` are words, as in YAML 1.2; our routes say ``on:``."""

    yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:bool"]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"(?:true|false)$"), list("tf"))


class Document:
    """A YAML text as plain data, with the line of every path, and the problems found so far."""

    def __init__(self, text: str) -> None:
        self.problems: list[str] = []
        self._lines: dict[str, int] = {}
        self.data = self._plain(yaml.compose(text, Loader=Loader), "")

    def problem(self, path: str, message: str) -> None:
        """Record a mistake at ``path``."""
        self.problems.append(f"line {self._line(path)}: {path}: {message}" if path else message)

    def _line(self, path: str) -> int:
        while path and path not in self._lines:
            path = path.rpartition(".")[0]
        return self._lines.get(path, 1)

    def _plain(self, node: yaml.Node | None, path: str) -> Any:
        if node is None:
            return None
        self._lines.setdefault(path, node.start_mark.line + 1)
        if isinstance(node, yaml.SequenceNode):
            return [self._plain(item, f"{path}[{index}]") for index, item in enumerate(node.value)]
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path)
        try:
            return Loader("").construct_object(node)
        except (ValueError, KeyError, yaml.YAMLError):
            self.problem(
                path, f"cannot be read as {node.tag.rpartition(':')[2]}: {shorten(getattr(node, 'value', ''))}"
            )
            return None

    def _mapping(self, node: yaml.MappingNode, path: str) -> dict[Any, Any]:
        result: dict[Any, Any] = {}
        for key_node, value_node in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                self.problem(path or "<<", "merge keys ('<<') are not read here; write it out")
                continue
            key = self._plain(key_node, f"{path}.?")
            inner = join(path, key)
            self._lines[inner] = key_node.start_mark.line + 1
            if not isinstance(key, str | int) or key in result:
                self.problem(inner, "this key stands here twice" if isinstance(key, str | int) else "not a plain key")
                continue
            result[key] = self._plain(value_node, inner)
        return result

    def read(self, wanted: Any, value: Any, path: str) -> Any:
        """Return ``value`` as the type ``wanted``; mistakes are recorded, and None returned in their place."""
        origin, arguments = typing.get_origin(wanted), typing.get_args(wanted)
        if origin is Annotated:
            found = self.read(arguments[0], value, path)
            return found if found is None else self._checked(found, arguments[1:], path)
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
        if type(value) is not wanted:
            self.problem(path, f"must be {WORDS[wanted]}; got {shorten(value)}")
            return None
        return value

    def _checked(self, value: Any, checks: tuple[Any, ...], path: str) -> Any:
        for message in (check.problem(value) for check in checks):
            if message:
                self.problem(path, message)
                return None
        return value

    def _read_list(self, wanted: Any, value: Any, path: str) -> Any:
        if not isinstance(value, list):
            self.problem(path, f"must be a list; got {shorten(value)}")
            return ()
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
        fields = {field.name: field for field in dataclasses.fields(wanted) if field.metadata != NOT_AN_OPTION}
        for key in value.keys() - fields.keys():
            self.problem(join(path, key), f"unknown option{did_you_mean(key, fields)}")
        for name, field in fields.items():
            if name not in value and field.default is field.default_factory is dataclasses.MISSING:
                self.problem(path, f"the option {name!r} is missing")
        before = len(self.problems)
        given = {name: self.read(hints[name], value[name], join(path, name)) for name in fields if name in value}
        missing = [name for name, f in fields.items() if name not in given and f.default is f.default_factory]
        return None if missing or len(self.problems) > before else wanted(**given)


@dataclass(frozen=True)
class OneOf:
    """A value must be one of a few."""

    allowed: tuple[Any, ...]

    def problem(self, value: Any) -> str:
        choices = ", ".join(str(choice) for choice in self.allowed)
        return "" if value in self.allowed else f"must be one of {choices}; got {shorten(value)}"


def join(path: str, key: object) -> str:
    """Return the path of ``key`` below ``path``."""
    return f"{path}.{key}" if path else str(key)
