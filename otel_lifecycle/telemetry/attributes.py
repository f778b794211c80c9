"""The attributes of the lifecycle span, and the setters that put a record on it.

Both are made from the declared fields of the record. A setter is compiled, as those of `dataclass`
are: one statement a field, with nothing left to look up while requests wait.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from enum import Enum
from typing import Any, NamedTuple, Protocol, TypeAlias

import msgspec

from otel_lifecycle.config import TrackerConfig
from otel_lifecycle.model import semconv
from otel_lifecycle.model.fields import DeclarationError, Field, fields_of, prefixed
from otel_lifecycle.model.record import LifecycleRecord
from otel_lifecycle.model.timestamps import datetime_to_ns, parse_timestamp

Attributes: TypeAlias = dict[str, Any]

# Arrays must be homogeneous and cannot hold a gap: -1 is what npu-exporter itself writes for one.
UNKNOWN = -1.0


class Details(NamedTuple):
    """Which attributes are there that a setting must ask for; the names are those of the settings.

    Attributes:
        npu_device_attributes: The arrays with one value a chip.
        first_byte_attribute: The time to the first byte.
    """

    npu_device_attributes: bool = False
    first_byte_attribute: bool = False

    @classmethod
    def of(cls, config: TrackerConfig) -> Details:
        """Return those that the settings of a tracker ask for."""
        return cls(*(getattr(config, name) for name in cls._fields))


Setter: TypeAlias = Callable[[Any, Any, int, Details], None]


class Receiver(Protocol):
    """What attributes are put into: a dictionary, or something that encodes them."""

    def __setitem__(self, name: str, value: Any, /) -> None: ...

    def update(self, others: Any, /) -> None:
        """Add what another receiver of this type holds."""


class Output(Protocol):
    """The form in which compiled setters put attributes into their receiver."""

    @property
    def names(self) -> Mapping[str, object]:
        """What the statements refer to; complete once all of them are made."""
        ...

    def statements(self, name: str, kind: str, value: str) -> Iterator[str]:
        """Yield the code that puts an attribute into the receiver `a`.

        Args:
            name: Its name.
            kind: Its type, as in `Attribute.type`.
            value: The expression of its value.
        """
        ...


class _Assignments:
    """Any receiver, and each attribute as it is."""

    names: Mapping[str, object] = {}

    def statements(self, name: str, kind: str, value: str) -> Iterator[str]:
        yield f"a[{name!r}] = {value}"


ASSIGNMENTS: Output = _Assignments()


class Attribute(NamedTuple):
    """One attribute of the lifecycle span, or of an event of it.

    Attributes:
        name: Its name.
        type: `string`, `int`, `double`, `boolean`, or an array of one, such as `string[]`.
        unit: UCUM; empty for what is no number.
        text: What it means.
        source: Where the value comes from.
        section: Which part of the span it belongs to.
        field: Its field in the record, dotted; empty for what is found from others.
        at_start: Whether a sampler sees it.
        opt_in: The setting without which it is not there.
    """

    name: str
    type: str
    unit: str
    text: str
    source: str
    section: str
    field: str = ""
    at_start: bool = False
    opt_in: str = ""


DECISION, DECISION_PREFILL = "llm_router.decision", "llm_router.decision.prefill"
_DECISION = (
    (semconv.DECISION_REASON, "string", "", "`reason` of the decision"),
    *(
        (f"{prefix}.{name}", kind, unit, text + of)
        for prefix, of in ((DECISION, ""), (DECISION_PREFILL, ", of the prefill"))
        for name, kind, unit, text in (
            ("endpoints", "string[]", "", "The recorded candidates, best first"),
            ("scores", "double[]", "1", "Scores of the first of them, as many as have one"),
            ("chosen_rank", "int", "1", "`chosenRank` of the pick"),
            ("margin", "double", "1", "`margin` of the pick"),
            ("regret", "double", "s", "`regretMillis` of the pick"),
        )
    ),
)

# What is found from other fields.
DERIVED = (
    Attribute(
        semconv.ROUTE_TYPE, "string", "", "`aggregated` or `prefill_decode`.", "router", "route"
    ),
    Attribute(
        semconv.ROUTE_SHARED,
        "boolean",
        "",
        "True if one endpoint is both prefill and decode; else absent.",
        "router",
        "route",
    ),
    Attribute(
        semconv.SERVER_ADDRESS, "string", "", "Host of the selected endpoint.", "router", "route"
    ),
    Attribute(semconv.SERVER_PORT, "int", "", "Port of that endpoint.", "router", "route"),
    Attribute(
        semconv.QUEUE_DURATION,
        "double",
        "s",
        "Time from arrival to dispatch, or to the end of a request that had none; absent if the "
        "arrival is unknown.",
        "clock",
        "result",
    ),
    Attribute(
        semconv.TIME_TO_FIRST_CHUNK,
        "double",
        "s",
        "Time from arrival, or dispatch if that is unknown, to a stream's first chunk.",
        "clock",
        "result",
    ),
    Attribute(
        semconv.K8S_NAMESPACE_NAME, "string", "", "Namespace of that endpoint.", "router", "route"
    ),
    Attribute(semconv.K8S_POD_NAME, "string", "", "Pod of that endpoint.", "router", "route"),
    *(
        Attribute(name, kind, unit, f"{text}.", "router", "decision")
        for name, kind, unit, text in _DECISION
    ),
)


def span_attributes(
    record: type[msgspec.Struct] = LifecycleRecord, derived: tuple[Attribute, ...] = DERIVED
) -> tuple[Attribute, ...]:
    """All attributes, in the order of the record's fields; those found from others come last.

    Raises:
        DeclarationError: A name is taken.
    """
    found: dict[str, Attribute] = {}
    for attribute in (*_walk(record, "", _Within()), *derived):
        other = found.setdefault(attribute.name, attribute)
        if other is not attribute:
            raise DeclarationError(
                f"{attribute.field or 'a derived attribute'} cannot be {attribute.name}: "
                f"{other.field or 'a derived attribute'} is"
            )
    return tuple(found.values())


class _Within(NamedTuple):
    """What a field has of the structs that it stands in."""

    path: str = ""
    section: str = "request"
    source: str = "router"
    opt_in: str = ""
    many: bool = False

    def field(self, field: Field) -> _Within:
        declared = field.declared
        return _Within(
            f"{self.path}.{field.record_name}" if self.path else field.record_name,
            declared.section or self.section,
            declared.source or self.source,
            declared.opt_in or self.opt_in,
            field.many or self.many,
        )


def _walk(struct: type[msgspec.Struct], prefix: str, within: _Within) -> Iterator[Attribute]:
    for field in fields_of(struct):
        declared, inside = field.declared, within.field(field)
        if isinstance(declared.attribute, tuple):
            is_mapping = field.kind == "" and field.struct is None
            types = ("string[]", "int[]") if is_mapping else ("int", "int")
            if field.struct is not None:
                types = ("string[]", "string[]")
            for name, kind in zip(declared.attribute, types, strict=True):
                unit = field.unit if kind.startswith("int") else ""
                yield _attribute(field, inside, prefixed(prefix, name), kind, unit)
        elif declared.attribute and field.struct is not None:
            yield from _walk(field.struct, prefixed(prefix, declared.attribute), inside)
        elif declared.attribute:
            unit = _unit(field)
            many = "[]" if inside.many and not inside.section.startswith("event") else ""
            kind = _kind(field) + many
            yield _attribute(field, inside, prefixed(prefix, declared.attribute), kind, unit)


_TYPES = {int: "int", float: "double", bool: "boolean"}


def _unit(field: Field) -> str:
    return {"ms": "s", "%": "1"}.get(field.unit, field.unit)


def _kind(field: Field) -> str:
    return "double" if _unit(field) == "s" else _TYPES.get(field.type, "string")


def _attribute(field: Field, within: _Within, name: str, kind: str, unit: str) -> Attribute:
    return Attribute(
        name,
        kind,
        unit,
        field.declared.text,
        within.source,
        within.section,
        within.path,
        field.declared.at_start,
        within.opt_in,
    )


def unknown(column: Field) -> float | str:
    """What stands for None in an array of the span."""
    return "" if issubclass(column.type, str) and column.kind != "timestamp" else UNKNOWN


def attribute_name(*path: str) -> str:
    """The attribute that a struct of the record stands in, by the Python names on the way."""
    struct: type[msgspec.Struct] = LifecycleRecord
    name = ""
    for step in path:
        field = next(field for field in fields_of(struct) if field.name == step)
        assert field.struct is not None
        struct, name = field.struct, prefixed(name, str(field.declared.attribute))
    return name


def setter(
    struct: type[msgspec.Struct],
    wanted: Callable[[Field, str, str], bool],
    prefix: str = "",
    by_hand: Mapping[str, Callable[[Receiver, Any], None]] | None = None,
    output: Output = ASSIGNMENTS,
) -> Setter:
    """Compiles a function that puts fields of a struct on a span.

    It takes the receiver, the struct, the moment that times and ages count from in Unix
    nanoseconds, and the details.

    Args:
        struct: The type of what it is given.
        wanted: Which fields; it is given a field, its section and its source.
        prefix: The name of the attribute that the struct stands in.
        by_hand: By name of the field, what sets its attributes, for those no rule fits.
        output: How the receiver is given attributes.
    """
    return _Compiler(wanted, by_hand or {}, output).compile(struct, prefix)


class _Compiler:
    def __init__(
        self,
        wanted: Callable[[Field, str, str], bool],
        by_hand: Mapping[str, Callable[[Receiver, Any], None]],
        output: Output,
    ) -> None:
        self._wanted = wanted
        self._output = output
        self._globals: dict[str, Any] = {
            "datetime_to_ns": datetime_to_ns,
            "parse_timestamp": parse_timestamp,
            **{f"set_{name}": function for name, function in by_hand.items()},
        }
        self._by_hand = by_hand

    def compile(self, struct: type[msgspec.Struct], prefix: str) -> Setter:
        body = list(self._struct(struct, "o", prefix, _Within())) or ["pass"]
        source = "\n    ".join(["def set_attributes(a, o, since_ns, details):", *body])
        self._globals.update(self._output.names)
        # Named after this file, so that a profile or a traceback tells whose it is.
        exec(compile(source, f"{__file__}:{struct.__name__}", "exec"), self._globals)
        return self._globals["set_attributes"]

    def _struct(
        self, struct: type[msgspec.Struct], owner: str, prefix: str, within: _Within
    ) -> Iterator[str]:
        for field in fields_of(struct):
            inside, attribute = within.field(field), field.declared.attribute
            value = f"{owner}.{field.name}"
            if field.name in self._by_hand:
                if self._wanted(field, inside.section, inside.source):
                    yield f"set_{field.name}(a, {owner})"
            elif field.struct is not None and isinstance(attribute, str):
                if attribute:
                    name = prefixed(prefix, attribute)
                    nested = self._columns if field.many else self._nested
                    yield from nested(field, field.struct, value, name, inside)
            elif attribute and self._wanted(field, inside.section, inside.source):
                yield from self._leaf(field, value, prefix)

    def _nested(
        self, field: Field, struct: type[msgspec.Struct], value: str, prefix: str, within: _Within
    ) -> Iterator[str]:
        local = value.replace(".", "_")
        body = list(self._struct(struct, local, prefix, within))
        if body and (field.optional or field.default is msgspec.UNSET):
            yield f"if {local} := {value}:"
            yield from _indented(body)
        elif body:
            yield f"{local} = {value}"
            yield from body

    def _columns(
        self, field: Field, struct: type[msgspec.Struct], value: str, prefix: str, within: _Within
    ) -> Iterator[str]:
        """One array for each field of the structs in a list."""
        columns: list[str] = []
        for column in fields_of(struct):
            inside, attribute = within.field(column), column.declared.attribute
            if isinstance(attribute, str) and self._wanted(column, inside.section, inside.source):
                each = _converted(column, "x" if column.optional else f"e.{column.name}")
                if column.optional:
                    each = f"{unknown(column)!r} if (x := e.{column.name}) is None else {each}"
                name, kind = prefixed(prefix, attribute), f"{_kind(column)}[]"
                columns += self._output.statements(name, kind, f"tuple([{each} for e in v])")
        if columns:
            condition = f"(v := {value})"
            if within.opt_in:
                condition = f"details.{within.opt_in} and {condition}"
            yield f"if {condition}:"
            yield from _indented(columns)

    def _leaf(self, field: Field, value: str, prefix: str) -> Iterator[str]:
        declared = field.declared
        always = declared.always or field.default is msgspec.NODEFAULT
        read = value if always else "v"
        if isinstance(declared.attribute, tuple):
            keys, numbers = declared.attribute
            values = [
                (keys, "string[]", f"tuple({read})"),
                (numbers, "int[]", f"tuple({read}.values())"),
            ]
        else:
            kind = _kind(field) + ("[]" if field.many else "")
            values = [(declared.attribute, kind, _converted(field, read))]
        statements = [
            statement
            for name, kind, it in values
            for statement in self._output.statements(prefixed(prefix, name), kind, it)
        ]
        if always:
            yield from statements
            return
        condition = f"(v := {value})"
        if field.optional:
            condition += " is not None"
        elif isinstance(field.default, Enum):
            self._globals[f"default_{field.name}"] = field.default
            condition += f" is not default_{field.name}"
        if declared.opt_in:
            condition = f"details.{declared.opt_in} and {condition}"
        yield f"if {condition}:"
        yield from _indented(statements)


def _converted(field: Field, value: str) -> str:
    """The expression of a value as the span has it."""
    if field.many:
        return f"tuple({value})"
    if field.is_enum:
        return f"{value}.value"
    if field.kind == "moment":
        return f"(since_ns - datetime_to_ns({value})) / 1_000_000_000"
    if field.kind == "timestamp":
        return f"(parse_timestamp({value}) - since_ns) / 1_000_000_000"
    return value + {"ms": " / 1000", "%": " / 100"}.get(field.unit, "")


def _indented(lines: list[str]) -> list[str]:
    return ["    " + line for line in lines]
