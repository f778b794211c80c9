"""Each field must be declared once and completely, or the tables cannot be built."""

from __future__ import annotations

from typing import Annotated

import msgspec
import pytest

from otel_lifecycle.model.fields import (
    Count,
    DeclarationError,
    Fraction,
    Text,
    declare,
    fields_of,
    record_name,
)
from otel_lifecycle.telemetry.attributes import span_attributes
from scripts.docs import check_source


class Undeclared(msgspec.Struct):
    """A field without a declaration."""

    declared: Annotated[Text, declare("There.")] = ""
    forgotten: Text = ""


class DeclaredTwice(msgspec.Struct):
    """Two declarations of one field."""

    reason: Annotated[Text, declare("One."), declare("Another.")] = ""


class WithoutUnit(msgspec.Struct):
    """A number without a unit."""

    share: Annotated[Fraction | None, declare("Its unit is that of its kind.")] = None
    tokens: Annotated[Count | None, declare("How many tokens.")] = None


class MappingWithoutUnit(msgspec.Struct):
    """Numbers without a unit."""

    models: Annotated[dict[str, Count], declare("How many of each.")] = {}


@pytest.mark.parametrize(
    ("struct", "message"),
    [
        (Undeclared, "Undeclared.forgotten is declared not at all"),
        (DeclaredTwice, "DeclaredTwice.reason is declared twice"),
        (WithoutUnit, "WithoutUnit.tokens has no unit"),
        (MappingWithoutUnit, "MappingWithoutUnit.models has no unit"),
    ],
)
def test_incomplete_declarations(struct: type[msgspec.Struct], message: str) -> None:
    """A field that is not declared once, with a unit, is refused by name."""
    with pytest.raises(DeclarationError) as refusal:
        fields_of(struct)

    assert str(refusal.value) == message


class StandsTwice(msgspec.Struct):
    """A field name used twice in a class; Python silently uses the last."""

    reason: Annotated[Text, declare("One.")] = ""
    reason: Annotated[Text, declare("Another.")] = ""  # type: ignore[no-redef] # noqa: PIE794


def test_field_that_stands_twice() -> None:
    """A name used twice in one class is refused by name."""
    with pytest.raises(DeclarationError) as refusal:
        check_source(StandsTwice)

    assert str(refusal.value) == "StandsTwice.reason is declared twice"


class Inner(msgspec.Struct):
    """A struct in two places."""

    reason: Annotated[Text, declare("Why.", attribute=".reason")] = ""


class SameAttribute(msgspec.Struct):
    """Two fields with one attribute."""

    first: Annotated[Inner | None, declare("One.", attribute="llm_router.route")] = None
    second: Annotated[Text, declare("Another.", attribute="llm_router.route.reason")] = ""


class DerivedAttribute(msgspec.Struct):
    """A field with the attribute of a derived value."""

    kind: Annotated[Text, declare("A kind.", attribute="llm_router.route.type")] = ""


@pytest.mark.parametrize(
    ("struct", "message"),
    [
        (SameAttribute, "second cannot be llm_router.route.reason: first.reason is"),
        (
            DerivedAttribute,
            "a derived attribute cannot be llm_router.route.type: kind is",
        ),
    ],
)
def test_taken_attributes(struct: type[msgspec.Struct], message: str) -> None:
    """An attribute whose name is taken is refused, and both are named."""
    with pytest.raises(DeclarationError) as refusal:
        span_attributes(struct)

    assert str(refusal.value) == message


def test_record_names() -> None:
    """Names in the record are camelCase, with `Millis` for milliseconds."""
    names = ("request_id", "ttft_ms", "e2e_ms", "hbm_utilization_avg", "at")

    assert list(map(record_name, names)) == [
        "requestId",
        "ttftMillis",
        "e2eMillis",
        "hbmUtilizationAvg",
        "at",
    ]
