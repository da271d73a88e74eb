"""Every option that the configuration may hold, as the program's own types say it; config/README.md lists the same."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, dataclass
from typing import Annotated, Any, Literal, get_args, get_origin

from repmgr_hooks.config import Service
from repmgr_hooks.forward.settings import Forward
from repmgr_hooks.handlers import barman, built_in, slot
from repmgr_hooks.handlers.pgbouncer import Consoles
from repmgr_hooks.settings.cluster import Cluster, NodeId
from repmgr_hooks.settings.document import option
from repmgr_hooks.settings.schema import NOT_AN_OPTION, REST, IpAddress, OrNever, Pattern, Range

WORDS = {str: "string", int: "integer", bool: "boolean", float: "number", Any: "any"}
EFFECTIVE = {
    "slot.state": "absent",
    "slot.max_retained_wal": slot.Config("primary").limit,
    "barman.start_timeout": barman.Config().stream_limit,
    "barman.min_stream_age": barman.Config().stream_age,
}
"""What holds for an option whose default is to be absent: another option asks whether it was written."""


@dataclass(frozen=True)
class Option:
    """A row of the table."""

    path: str
    kind: str
    default: str


def all_options() -> list[Option]:
    """Return the options in the order of the file. What ``routes`` holds is read by ``config.py`` itself."""
    found = [*_of(Service, ""), *_of(Forward, "forward"), *_of(Cluster, "clusters.NAME")]
    for name, handler in built_in().items():
        found += [_effective(option) for option in _of(handler.Config, name)]
    return found


def _effective(option: Option) -> Option:
    known = EFFECTIVE.get(option.path)
    return option if known is None else dataclasses.replace(option, default=str(known))


def _of(kind: type[Any], path: str, given: object = None) -> Iterator[Option]:
    """Yield the options of a dataclass; ``given``: its value when the section is left out."""
    hints = typing.get_type_hints(kind, include_extras=True)
    for field in dataclasses.fields(kind):
        if field.metadata == NOT_AN_OPTION:
            continue
        default = field.default if field.default_factory is MISSING else field.default_factory()
        if given is not None:
            default = getattr(given, field.name)
        inner = f"{path}.{option(field)}".lstrip(".")
        if field.metadata == REST:
            yield Option(f"{path}.OPTION", "string or integer", "none")
        else:
            yield from _inside(hints[field.name], inner, default)


def _inside(annotated: Any, path: str, default: object) -> Iterator[Option]:
    kind, checks = _bare(annotated)
    if dataclasses.is_dataclass(kind):
        yield from _of(typing.cast(type[Any], kind), path, None if default is MISSING else default)
    elif get_origin(kind) is Mapping:
        key, value = get_args(kind)
        inner = MISSING if dataclasses.is_dataclass(value) else default
        yield from _inside(value, f"{path}.{'N' if key == NodeId else 'NAME'}", inner)
    elif get_origin(kind) is tuple and dataclasses.is_dataclass(get_args(kind)[0]):
        yield from _of(get_args(kind)[0], f"{path}[]")
    else:
        yield Option(path, _kind(kind, checks), _default(default))


def _bare(kind: Any) -> tuple[Any, tuple[Any, ...]]:
    """Return a type without None and without annotations, and the annotations."""
    checks: tuple[Any, ...] = ()
    while True:
        if get_origin(kind) in (typing.Union, types.UnionType):
            (kind,) = (inner for inner in get_args(kind) if inner is not type(None))
        elif get_origin(kind) is Annotated:
            kind, *more = get_args(kind)
            checks = (*checks, *more)
        else:
            return kind, checks


def _kind(kind: Any, checks: tuple[Any, ...]) -> str:
    """Return a type in words.

    >>> _kind(int, (Range(1, 9),)), _kind(tuple[str, ...], ()), _kind(Literal["a", "b"], ())
    ('integer, 1 to 9', 'list', '`a` or `b`')
    """
    for check in checks:
        if isinstance(check, Consoles):
            return "string or list"
        if isinstance(check, Range):
            return f"{WORDS[kind]}, {check.low} to {check.high}"
        if isinstance(check, OrNever):
            return f"integer, {check.low} to {check.high}, or `never`"
        if isinstance(check, IpAddress):
            return "IP address"
        if isinstance(check, Pattern) and "absolute path" in check.means:
            return "absolute path"
        if isinstance(check, Pattern) and "an amount" in check.means:
            return "amount"
    if get_origin(kind) is Literal:
        return " or ".join(f"`{choice}`" for choice in get_args(kind))
    return "list" if get_origin(kind) is tuple else WORDS[kind]


def _default(value: object) -> str:
    """Return a default as YAML has it.

    >>> _default(True), _default(("barman",)), _default(MISSING), _default("")
    ('true', '[barman]', 'required', 'none')
    """
    if value is MISSING:
        return "required"
    if isinstance(value, tuple) and value:
        return f"[{', '.join(value)}]"
    if value in ("", None, (), {}):
        return "none"
    return str(value).lower() if isinstance(value, bool) else str(value)
