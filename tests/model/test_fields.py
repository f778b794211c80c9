"""A field is declared once and whole, or the tables cannot be built."""

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
    """What is not declared once and with its unit is refused, and named."""
    with pytest.raises(DeclarationError) as refusal:
        fields_of(struct)

    assert str(refusal.value) == message


class StandsTwice(msgspec.Struct):
    """One name twice in a class, of which Python takes the last without a word."""

    reason: Annotated[Text, declare("One.")] = ""
    reason: Annotated[Text, declare("Another.")] = ""  # type: ignore[no-redef] # noqa: PIE794


def test_field_that_stands_twice() -> None:
    """A name that stands twice in one class is refused, and named."""
    with pytest.raises(DeclarationError) as refusal:
        check_source(StandsTwice)

    assert str(refusal.value) == "StandsTwice.reason is declared twice"


class Inner(msgspec.Struct):
    """A struct in two places."""

    reason: Annotated[Text, declare("Why.", attribute=".reason")] = ""


class SameAttribute(msgspec.Struct):
    """Two fields, one attribute."""

    first: Annotated[Inner | None, declare("One.", attribute="llm_router.route")] = None
    second: Annotated[Text, declare("Another.", attribute="llm_router.route.reason")] = ""


class DerivedAttribute(msgspec.Struct):
    """The attribute of something that is found from other fields."""

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
    """Names of the record are camelCase, and tell milliseconds."""
    names = ("request_id", "ttft_ms", "e2e_ms", "hbm_utilization_avg", "at")

    assert list(map(record_name, names)) == [
        "requestId",
        "ttftMillis",
        "e2eMillis",
        "hbmUtilizationAvg",
        "at",
    ]
