"""The architecture holds: imports flow one way, modules stay small, names stay standard."""

from __future__ import annotations

import ast
import importlib
import pkgutil
import re
from pathlib import Path

import pytest
from opentelemetry.semconv.schemas import Schemas

import otel_lifecycle
from otel_lifecycle.model import semconv
from otel_lifecycle.telemetry.attributes import span_attributes

PACKAGE = Path(otel_lifecycle.__file__).parent

# Each room may import those of earlier lines, and of its own line only itself. The live state of an
# endpoint is a value of the model that telemetry reads, `state` fills and `tracking` counts on;
# telemetry comes before the records, which are also made of spans and sent as spans.
LAYERS = [
    {"version"},
    {"model", "runtime"},
    {"config"},
    {"prediction", "state", "telemetry"},
    {"records"},
    {"tracking"},
    {"instrumentation", "testing"},
    {"observation"},
    {"analysis"},
    {"cli"},
]
LEVELS = {name: level for level, names in enumerate(LAYERS) for name in names}


def modules() -> list[Path]:
    """All modules of the package."""
    return [path for path in PACKAGE.rglob("*.py") if "_examples" not in path.parts]


def dotted(path: Path) -> str:
    """The name of a module without the package's."""
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")


def imported(path: Path) -> set[str]:
    """The modules of the package that a module imports, relative to the package."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    prefix = "otel_lifecycle."
    return {name.removeprefix(prefix) for name in names if name.startswith(prefix)}


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_flow_one_way(path: Path) -> None:
    """A module imports only from its own package and from those below it."""
    if dotted(path) == "__init__":
        return
    room = dotted(path).partition(".")[0]
    others = {other.partition(".")[0] for other in imported(path)} - {room}

    assert [other for other in others if LEVELS[other] >= LEVELS[room]] == []


@pytest.mark.parametrize("room", sorted(path.name for path in PACKAGE.iterdir() if path.is_dir()))
def test_rooms_are_small(room: str) -> None:
    """A folder has at most about a dozen modules."""
    for folder in {path.parent for path in (PACKAGE / room).rglob("*.py")}:
        assert len(list(folder.glob("*.py"))) <= 16


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_modules_are_small(path: Path) -> None:
    """No module is much longer than 400 lines."""
    assert len(path.read_text("utf-8").splitlines()) <= 420


@pytest.mark.parametrize("room", ["tracking", "telemetry"])
def test_the_time_is_read_from_the_tracker_s_clock(room: str) -> None:
    """Code that times requests or computes ages does not read the machine's clock."""
    asking = {
        f"{dotted(path)}:{node.lineno}"
        for path in (PACKAGE / room).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if (isinstance(node, ast.Import) and any(alias.name == "time" for alias in node.names))
        or (isinstance(node, ast.ImportFrom) and node.module == "time")
        or (isinstance(node, ast.Attribute) and node.attr in ("now", "utcnow", "today"))
    }

    assert asking == set()


def test_loggers_are_printable() -> None:
    """Every logger of the package escapes control characters."""
    direct = [
        dotted(path) for path in modules() if "getLogger(__name__)" in path.read_text("utf-8")
    ]

    assert direct == []


def test_public_names() -> None:
    """The package exports exactly the names in `__all__`."""
    assert sorted(otel_lifecycle.__all__) == sorted(set(otel_lifecycle.__all__))
    assert [name for name in otel_lifecycle.__all__ if not hasattr(otel_lifecycle, name)] == []


def names() -> set[str]:
    """The names of all attributes, events and metrics."""
    constants = [
        value
        for name, value in vars(semconv).items()
        if name.isupper() and isinstance(value, str) and name not in ("SCOPE", "SCHEMA_URL")
    ]
    assert len(constants) == len(set(constants))
    return {*constants, *(attribute.name for attribute in span_attributes())}


def test_names_of_the_conventions() -> None:
    """Every `gen_ai.`, `k8s.`, `server.`, `error.` and `hw.` name exists in OpenTelemetry."""
    if semconv.SCHEMA_URL not in {schema.value for schema in Schemas}:
        pytest.skip("the installed conventions are older than those the names are from")
    known: set[str] = set()
    for kind in ("attributes", "metrics"):
        package = importlib.import_module(f"opentelemetry.semconv._incubating.{kind}")
        for info in pkgutil.iter_modules(package.__path__):
            module = Path(package.__path__[0], f"{info.name}.py").read_text("utf-8")
            known.update(re.findall(r'"((?:gen_ai|k8s|server|error|hw)\.[a-z0-9_.]+)"', module))
    known |= {semconv.ERROR_TYPE, semconv.SERVER_ADDRESS, semconv.SERVER_PORT}
    ours = {
        name for name in names() if name.startswith(("gen_ai.", "k8s.", "server.", "error.", "hw."))
    }

    assert ours - known == set()
    assert len(ours) >= 15


def test_own_names_are_in_one_namespace() -> None:
    """All other names start with `llm_router.`."""
    assert [
        name
        for name in names()
        if not name.startswith(("llm_router.", "gen_ai.", "k8s.", "server.", "error.", "hw."))
    ] == []
