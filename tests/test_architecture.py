"""The house stays as it is drawn: imports flow one way, modules stay small, names stay standard."""

from __future__ import annotations

import ast
import importlib
import pkgutil
import re
from pathlib import Path

import pytest

import otel_lifecycle
from otel_lifecycle import semconv

PACKAGE = Path(otel_lifecycle.__file__).parent

# Each module may import those of earlier lines, and of its own.
LAYERS = [
    {"version", "semconv", "model", "timestamps", "durations", "process_exit", "exposition"},
    {"settings", "record", "sanitize", "clean_attributes", "loop_thread"},
    {"collection_config", "prediction_config"},
    {"config", "endpoint_state", "lifecycle"},
    {"attachments", "store", "background", "latency", "features", "accelerators", "engines"},
    {"snapshots", "spans", "phases", "sampling", "observations"},
    {"span_reader", "metrics", "dispatch"},
    {"persistence", "protocols", "collection", "prediction", "live_span"},
    {"scheduling", "extras", "recorder"},
    {"tracked"},
    {"tracker"},
    {"testing", "shipping", "instrumentation"},
    {"cli"},
]
LEVELS = {module: level for level, modules in enumerate(LAYERS) for module in modules}


def modules() -> list[Path]:
    """All modules of the package."""
    return [path for path in PACKAGE.rglob("*.py") if "_examples" not in path.parts]


def top(path: Path) -> str:
    """The module or sub-package right below the package."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    """The modules right below the package that a module imports."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            if node.module == "otel_lifecycle":
                names.update(f"otel_lifecycle.{alias.name}" for alias in node.names)
            names.add(node.module)
    return {name.split(".")[1] for name in names if name.startswith("otel_lifecycle.")}


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_flow_one_way(path: Path) -> None:
    """A module imports only what lies below it."""
    name = top(path)
    if name == "__init__":
        return
    upward = {
        other
        for other in imported(path)
        if other in LEVELS and other != name and LEVELS[other] > LEVELS[name]
    }

    assert name in LEVELS
    assert upward == set()


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_modules_are_small(path: Path) -> None:
    """No module is much longer than 400 lines."""
    assert len(path.read_text("utf-8").splitlines()) <= 420


def test_public_names() -> None:
    """The package exports exactly what it says it does."""
    assert sorted(otel_lifecycle.__all__) == sorted(set(otel_lifecycle.__all__))
    assert [name for name in otel_lifecycle.__all__ if not hasattr(otel_lifecycle, name)] == []


def test_names_of_the_conventions() -> None:
    """Every `gen_ai.`, `k8s.`, `server.`, `error.` and `hw.` name is one OpenTelemetry knows."""
    known: set[str] = set()
    for kind in ("attributes", "metrics"):
        package = importlib.import_module(f"opentelemetry.semconv._incubating.{kind}")
        for info in pkgutil.iter_modules(package.__path__):
            module = Path(package.__path__[0], f"{info.name}.py").read_text("utf-8")
            known.update(re.findall(r'"((?:gen_ai|k8s|server|error|hw)\.[a-z0-9_.]+)"', module))
    known |= {semconv.ERROR_TYPE, semconv.SERVER_ADDRESS, semconv.SERVER_PORT}
    ours = {
        value
        for name, value in vars(semconv).items()
        if name.isupper()
        and isinstance(value, str)
        and value.startswith(("gen_ai.", "k8s.", "server.", "error.", "hw."))
    }

    assert ours - known == set()
    assert len(ours) >= 15


def test_own_names_are_in_one_namespace() -> None:
    """Everything else is `llm_router.` or a suffix of it."""
    names = [
        value
        for name, value in vars(semconv).items()
        if name.isupper() and isinstance(value, str) and name not in ("SCOPE", "SCHEMA_URL")
    ]

    assert [
        name
        for name in names
        if not name.startswith(("llm_router.", "gen_ai.", "k8s.", "server.", "error.", "hw.", "."))
    ] == []
    assert len(names) == len(set(names))
