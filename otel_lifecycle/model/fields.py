"""Declares each field once, in its annotation on the struct.

    running_requests: Annotated[Count | None, declare("Requests being executed.", "{request}")]

The kind in the annotation (`Count`, `Fraction`, ...) gives type and bounds; `declare` gives the
rest. The span's attributes, its setters and readers, the sanitizing, the JSON Schema and the tables
of the docs are all generated from these declarations.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from enum import Enum
from functools import cache
from typing import (
    Annotated,
    Any,
    Literal,
    NamedTuple,
    TypeAlias,
    TypeVar,
    Union,
    cast,
    get_args,
    get_origin,
)

import msgspec
from msgspec import Meta

MAX_TEXT_LENGTH = 512
MAX_COUNT = 2**53 - 1  # exact in JSON readers, and sums of many fit OTLP's signed 64 bits
MAX_MILLISECONDS = 1e9  # beyond it a float cannot distinguish nanoseconds

_TIMESTAMP = r"^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}\.\d{9}Z$"

Text: TypeAlias = Annotated[str, Meta(max_length=MAX_TEXT_LENGTH, extra={"kind": "text"})]
Count: TypeAlias = Annotated[int, Meta(ge=0, le=MAX_COUNT, extra={"kind": "count"})]
Total: TypeAlias = Annotated[int, Meta(ge=0, extra={"kind": "total"})]
"""A sum of counts."""
Fraction: TypeAlias = Annotated[float, Meta(ge=0, le=1, extra={"kind": "fraction"})]
Percent: TypeAlias = Annotated[float, Meta(ge=0, le=100, extra={"kind": "percent"})]
Milliseconds: TypeAlias = Annotated[
    float, Meta(ge=0, le=MAX_MILLISECONDS, extra={"kind": "milliseconds"})
]
Elapsed: TypeAlias = Annotated[float, Meta(ge=0, extra={"kind": "elapsed"})]
"""Milliseconds measured by our own clock, without an upper bound."""
Difference: TypeAlias = Annotated[float, Meta(extra={"kind": "difference"})]
"""Milliseconds, possibly negative."""
Ratio: TypeAlias = Annotated[float, Meta(extra={"kind": "ratio"})]
Score: TypeAlias = Annotated[float, Meta(extra={"kind": "score"})]
"""A router's own number, in no unit and of any size."""
Moment: TypeAlias = Annotated[datetime, Meta(tz=True, extra={"kind": "moment"})]
"""In the record, and so in its schema, every moment is aware (`date-time`)."""
Timestamp: TypeAlias = Annotated[str, Meta(pattern=_TIMESTAMP, extra={"kind": "timestamp"})]
"""RFC 3339 in UTC, with nanoseconds."""

_UNITS = {
    "fraction": "1",
    "percent": "%",
    "milliseconds": "ms",
    "elapsed": "ms",
    "difference": "ms",
    "ratio": "1",
    "score": "1",
}

_ABSENT = (type(None), msgspec.UnsetType)

Source: TypeAlias = Literal["router", "engine", "device", "response", "clock", "load", "trace", ""]


_Struct = TypeVar("_Struct", bound=msgspec.Struct)


class DeclarationError(TypeError):
    """A field is not declared, declared twice, or conflicts with another field."""


class Declaration(NamedTuple):
    """The arguments of `declare`.

    Attributes:
        text: The meaning of the field; a sentence.
        unit: UCUM; empty if the kind has a unit, or if the field needs none.
        attribute: Its name on the span. A name that starts with a dot is appended to the attribute
            of the field that contains the struct; `.` alone appends nothing. A mapping has the
            names of two parallel arrays, for keys and values. Empty: not on the span.
        source: Source of the value; empty: that of the struct.
        section: Section of the span's table; empty: that of the struct.
        at_start: Whether the attribute is set before sampling.
        always: Whether the attribute is set for every value, and so shows that its struct exists.
        opt_in: The setting that enables the attribute.
        adds: Whether the values of several ranks behind one port are added up.
    """

    text: str
    unit: str
    attribute: str | tuple[str, str]
    source: Source
    section: str
    at_start: bool
    always: bool
    opt_in: str
    adds: bool


def declare(
    text: str,
    unit: str = "",
    attribute: str | tuple[str, str] = "",
    *,
    source: Source = "",
    section: str = "",
    at_start: bool = False,
    always: bool = False,
    opt_in: str = "",
    adds: bool = False,
) -> Meta:
    """Declare a field, in its annotation; takes the attributes of `Declaration`."""
    declaration = Declaration(
        text, unit, attribute, source, section, at_start, always, opt_in, adds
    )
    return Meta(description=text, extra={"declaration": declaration})


class Field(NamedTuple):
    """A declared field of a struct.

    Attributes:
        name: Its name in Python.
        record_name: Its name in the record.
        kind: `count`, `fraction`, ... of the aliases above; empty for other types.
        type: Its type without `None`; for a list or tuple, the type of the elements.
        struct: That type, if it is a struct.
        is_enum: Whether its values are members of an enum.
        unit: UCUM; empty if it is not a number.
        optional: Whether it may be None; one that may be `msgspec.UNSET` is left out then.
        many: Whether it is a list or tuple.
        default: Its default; `msgspec.NODEFAULT` if it has none.
        declared: Its declaration.
    """

    name: str
    record_name: str
    kind: str
    type: Any
    struct: type[msgspec.Struct] | None
    is_enum: bool
    unit: str
    optional: bool
    many: bool
    default: Any
    declared: Declaration


def record_name(name: str) -> str:
    """Return a field's name in the record: camelCase, with `Millis` for milliseconds."""
    first, *rest = name.removesuffix("_ms").split("_")
    millis = "Millis" if name.endswith("_ms") else ""
    return "".join([first, *(part.title() for part in rest), millis])


def prefixed(prefix: str, attribute: str) -> str:
    """Return the full name of an attribute in a struct whose own attribute is `prefix`."""
    if not attribute.startswith("."):
        return attribute
    return prefix if attribute == "." else prefix + attribute


@cache
def fields_of(struct: type[msgspec.Struct]) -> tuple[Field, ...]:
    """Return the fields of a struct, in their order.

    Raises:
        DeclarationError: A field is not declared, declared twice, or a number without a unit.
    """
    return tuple(_fields(struct))


def constructor(
    struct: type[_Struct], argument: Callable[[Field], str], functions: Mapping[str, Any]
) -> Callable[[Any], _Struct]:
    """Compile a function that builds a struct from another object.

    Args:
        struct: The struct to build.
        argument: Returns the expression of a field's value; the source object is `o`.
        functions: The functions that these expressions call, by name.
    """
    arguments = ", ".join(map(argument, fields_of(struct)))
    # Named after this file, so that profiles and tracebacks show where it comes from.
    code = compile(f"lambda o: struct({arguments})", f"{__file__}:{struct.__name__}", "eval")
    return eval(code, {**functions, "struct": struct})


def _fields(struct: type[msgspec.Struct]) -> Iterator[Field]:
    for info in msgspec.structs.fields(struct):
        place = f"{struct.__name__}.{info.name}"
        kind, optional, many = _strip(info.type)
        declarations = [meta["declaration"] for meta in kind.extras if "declaration" in meta]
        if len(declarations) != 1:
            how_often = "twice" if declarations else "not at all"
            raise DeclarationError(f"{place} is declared {how_often}")
        (declared,) = cast("list[Declaration]", declarations)
        unit = declared.unit or _UNITS.get(kind.name, "")
        if kind.is_number and not unit:
            raise DeclarationError(f"{place} has no unit")
        default = info.default
        if info.default_factory is not msgspec.NODEFAULT:
            default = info.default_factory()
        yield Field(
            info.name,
            info.encode_name,
            kind.name,
            kind.type,
            kind.type if _is_subclass(kind.type, msgspec.Struct) else None,
            _is_subclass(kind.type, Enum),
            unit,
            optional,
            many,
            default,
            declared,
        )


def _is_subclass(kind: Any, parent: type) -> bool:
    return isinstance(kind, type) and issubclass(kind, parent)


class _Kind(NamedTuple):
    name: str
    type: Any
    is_number: bool
    extras: list[dict[str, Any]]


def _strip(hint: Any) -> tuple[_Kind, bool, bool]:
    """Return the kind of a type hint, whether it may be None, and whether it is a list."""
    extras: list[dict[str, Any]] = []
    optional = many = False
    while True:
        origin, arguments = get_origin(hint), get_args(hint)
        if origin is Annotated:
            extras += [meta.extra or {} for meta in hint.__metadata__ if isinstance(meta, Meta)]
            hint = arguments[0]
        elif origin in (Union, types.UnionType):
            optional = optional or type(None) in arguments
            (hint,) = (argument for argument in arguments if argument not in _ABSENT)
        elif origin in (list, tuple):
            many, hint = True, arguments[0]
        else:
            break
    name = next((meta["kind"] for meta in extras if "kind" in meta), "")
    number = arguments[1] if origin is dict else hint
    while get_origin(number) is Annotated:
        number = get_args(number)[0]
    return _Kind(name, hint, number in (int, float), extras), optional, many
