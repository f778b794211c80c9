"""The parity table matches code and tests."""

from __future__ import annotations

import ast
import pkgutil
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]

# The functions of the original, in its order.
SEED_FUNCTIONS = [
    "Factory",
    "NewRequestLifecycleTracker",
    "TypedName",
    "ExpectedInputType",
    "Extract",
    "PreRequest",
    "ResponseBody",
    "ExtractEndpoint",
    "parseParameters",
    "requestInputTokens",
    "selectedTarget",
    "primaryProfileTargets",
    "hasCompletePDRoute",
    "readLatencyAttribute",
    "latencyPrediction",
    "pdPrediction",
    "selectedRoutingSnapshot",
    "derivePredictionMode",
    "outputLength",
    "trackedRouteEndpoints",
    "selectedRouteSnapshot",
    "canTrackResponse",
    "selectedPDRouteEndpoints",
    "endpointIdentitySnapshot",
    "endpointSnapshot",
    "endpointID",
    "endpointMetricsSnapshot",
    "endpointNPUSnapshot",
    "registerShutdownClose",
    "storeLogger",
]
SEED_CALLS = [
    "selectedPredictionInputs",
    "ExtractPrimaryRoute",
    "StartRequest",
    "Snapshot",
    "MarkFirstChunk",
    "CompleteRequest",
    "ApplyEndpointEvent",
    "Close",
]
NO_COUNTERPART = ["TypedName", "ExpectedInputType", "Extract"]


class Row(NamedTuple):
    """One rule of the original."""

    seed: str
    rule: str
    port: str
    difference: str
    test: str


def rows() -> list[Row]:
    """The rows of the parity tables."""
    text = (ROOT / "docs" / "seed-parity.md").read_text("utf-8")
    return [
        Row(*(cell.strip().strip("`") for cell in line.split("|")[1:-1]))
        for line in text.splitlines()
        if line.startswith("| `")
    ]


def defined_tests(path: Path) -> set[str]:
    """The tests a file defines."""
    return {
        node.name
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        and node.name.startswith("test_")
    }


def exists(name: str) -> bool:
    """Return whether a module, class or function exists in the package."""
    try:
        pkgutil.resolve_name(f"otel_lifecycle.{name}")
    except (ImportError, AttributeError):
        return False
    return True


def test_every_function_of_the_seed_has_its_rows() -> None:
    """The tables list the original's functions, and those it calls, in order."""
    assert list(dict.fromkeys(row.seed for row in rows())) == [*SEED_FUNCTIONS, *SEED_CALLS]


def test_every_rule_is_whole() -> None:
    """Each rule has the original's behaviour, the difference, code and a test."""
    for row in rows():
        assert row.rule
        assert row.difference
        assert (bool(row.port), bool(row.test)) == (row.seed not in NO_COUNTERPART,) * 2


def test_every_counterpart_exists() -> None:
    """The named code exists."""
    assert [row.port for row in rows() if row.port and not exists(row.port)] == []


def test_every_test_exists() -> None:
    """The named tests exist."""
    named = {row.test for row in rows() if row.test}
    files = {test.partition("::")[0] for test in named}
    known = {f"{file}::{test}" for file in files for test in defined_tests(ROOT / file)}

    assert named - known == set()
