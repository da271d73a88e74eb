"""The types of options as JSON schema: what ``document.py`` reads them from, said so that an editor can check it."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Annotated, Any

from repmgr_hooks.settings.document import is_option, option
from repmgr_hooks.settings.schema import REST, NotEmpty, OneOf

Schema = dict[str, Any]
TYPES = {str: "string", int: "integer", float: "number", bool: "boolean"}
NUMBER_AS_KEY = "^(?:0|[1-9][0-9]*)$"
"""Every key is a string to JSON."""


@dataclasses.dataclass(frozen=True)
class Describer:
    """Makes schemas; ``meanings`` has what stands in the table of options, by the path of the option."""

    meanings: Mapping[str, str]

    def schema(self, wanted: Any, path: str, default: object = None) -> Schema:
        """Return the schema of a type whose values stand at ``path``; each is refused that ``Document.read`` refuses,
        as far as the type says it, and none that it takes."""
        origin, arguments = typing.get_origin(wanted), typing.get_args(wanted)
        if origin is Annotated:
            return self.schema(arguments[0], path, default) | _keywords(arguments[0], arguments[1:])
        if origin in (typing.Union, types.UnionType):
            (inner,) = (argument for argument in arguments if argument is not type(None))
            return self.schema(inner, path, default)
        if dataclasses.is_dataclass(wanted):
            return self.mapping(typing.cast(type[Any], wanted), path, default)
        if origin is tuple:
            items = self.schema(arguments[0], f"{path}[]")
            return self._said(path, {"type": "array", "items": items}, default)
        if origin is Mapping:
            return self._named(arguments, path)
        if origin is typing.Literal:
            return self._said(path, OneOf(arguments).keywords(), default)
        return self._said(path, {} if wanted is Any else {"type": TYPES[wanted]}, default)

    def mapping(self, wanted: type[Any], path: str, given: object = None) -> Schema:
        """Return the schema of a dataclass; ``given`` is its value when the section is left out."""
        hints = typing.get_type_hints(wanted, include_extras=True)
        fields = [field for field in dataclasses.fields(wanted) if is_option(field)]
        properties = {
            option(field): self.schema(
                hints[field.name],
                f"{path}.{option(field)}".lstrip("."),
                getattr(given, field.name) if dataclasses.is_dataclass(given) else field.default,
            )
            for field in fields
        }
        missing = dataclasses.MISSING
        required = [option(field) for field in fields if field.default is field.default_factory is missing]
        schema: Schema = {"type": "object", "properties": properties, "additionalProperties": False}
        for rest in (field for field in dataclasses.fields(wanted) if field.metadata == REST):
            key, value = typing.get_args(hints[rest.name])
            schema["propertyNames"] = {"anyOf": [{"enum": list(properties)}, _key(key)]}
            schema["additionalProperties"] = self.schema(value, f"{path}.OPTION")
        return schema | ({"required": required} if required else {})

    def _named(self, arguments: tuple[Any, ...], path: str) -> Schema:
        """Return the schema of a mapping whose keys are names, or numbers of nodes."""
        key, value = arguments
        inner = self.schema(value, f"{path}.{'N' if _bare(key) is int else 'NAME'}")
        return {"type": "object", "propertyNames": _key(key), "additionalProperties": inner, "minProperties": 1}

    def _said(self, path: str, schema: Schema, default: object) -> Schema:
        meaning = {"description": self.meanings[path]} if path in self.meanings else {}
        known = isinstance(default, str | int | tuple) and default not in ("", ())
        return (
            schema | meaning | ({"default": list(default) if isinstance(default, tuple) else default} if known else {})
        )


def _keywords(wanted: Any, checks: Iterable[Any]) -> Schema:
    """Return what the checks of a type say; one of a plug-in's own may say nothing."""
    said: Schema = {}
    for check in checks:
        if isinstance(check, NotEmpty):
            said |= {"minItems" if typing.get_origin(wanted) is tuple else "minLength": 1}
        elif hasattr(check, "keywords"):
            said |= check.keywords()
    return said


def _key(kind: Any) -> Schema:
    if _bare(kind) is int:
        return {"pattern": NUMBER_AS_KEY}
    return _keywords(str, typing.get_args(kind)[1:])


def _bare(kind: Any) -> Any:
    return typing.get_args(kind)[0] if typing.get_origin(kind) is Annotated else kind
