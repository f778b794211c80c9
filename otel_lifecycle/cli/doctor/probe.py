"""Finds out what an environment contains. Runs there, as a program, and imports no router.

Arguments: the command's name, and the module it runs (may be empty). It needs only the standard
library: the environment may have neither this package nor OpenTelemetry.
"""

from __future__ import annotations

import json
import os
import platform
import sys
from importlib.machinery import ModuleSpec
from importlib.metadata import (
    EntryPoint,
    PackageNotFoundError,
    distribution,
    distributions,
    entry_points,
)
from importlib.util import find_spec
from pathlib import Path
from typing import Any

_GROUPS = (
    "opentelemetry_distro",
    "opentelemetry_configurator",
    "opentelemetry_instrumentor",
    "opentelemetry_traces_exporter",
    "opentelemetry_metrics_exporter",
)
_DISTRIBUTIONS = (
    "otel-lifecycle",
    "opentelemetry-api",
    "opentelemetry-sdk",
    "opentelemetry-instrumentation",
    "opentelemetry-distro",
    "opentelemetry-exporter-otlp",
    "wrapt",
    "fastapi",
    "starlette",
    "uvicorn",
    "aiohttp",
    "httpx",
    "litellm",
    "ray",
    "vllm-router",
    "sglang-router",
)
_PACKAGE = "otel_lifecycle."


def main() -> None:
    """Write the facts to standard output as JSON."""
    answer = os.dup(1)
    os.dup2(2, 1)  # an imported module may print
    command, module = sys.argv[1:]
    groups = {group: list(entry_points(group=group)) for group in _GROUPS}
    wanted = {
        point.name: _wanted(point)
        for point in groups["opentelemetry_instrumentor"]
        if point.value.startswith(_PACKAGE)
    }
    modules = {name for instrumentor in wanted.values() for name in instrumentor["modules"]}
    module = module or _module_of(command)
    facts = {
        "python": platform.python_version(),
        "executable": sys.executable,
        "versions": {name: _version(name) for name in _DISTRIBUTIONS if _version(name)},
        "groups": {group: [_entry(point) for point in points] for group, points in groups.items()},
        "wanted": wanted,
        "libraries": _libraries({name.partition(".")[0] for name in modules}),
        "module": module,
        "module_found": _find(module.partition(".")[0]) is not None,
        "module_file": _file_of(module),
        "native": _native(module.partition(".")[0]),
        "fastapi_traces": _submodule_exists("fastapi", "telemetry"),
    }
    with open(answer, "w", encoding="utf-8") as output:
        json.dump(facts, output)


def _wanted(point: EntryPoint) -> dict[str, Any]:
    """Return the modules our instrumentation hooks, and whether it only enriches spans."""
    try:
        from otel_lifecycle.instrumentation.enriching import EnrichingInstrumentor

        instrumentor = point.load()()
        return {
            "modules": {module: list(names) for module, names in instrumentor.wrappers().items()},
            "serving": [
                name for name in instrumentor.wrappers() if instrumentor.needs_tracker(name)
            ],
            "enriches": isinstance(instrumentor, EnrichingInstrumentor),
        }
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}", "modules": {}}


def _entry(point: EntryPoint) -> dict[str, str]:
    return {"name": point.name, "value": point.value, "conflict": _conflict(point)}


def _conflict(point: EntryPoint) -> str:
    """Return why `opentelemetry-instrument` would not load it; empty if it would."""
    if point.group != "opentelemetry_instrumentor" or point.dist is None:
        return ""
    try:
        from opentelemetry.instrumentation.dependencies import get_dist_dependency_conflicts

        return str(get_dist_dependency_conflicts(point.dist) or "")  # pyright: ignore[reportArgumentType]
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def _version(name: str) -> str:
    try:
        return distribution(name).version
    except PackageNotFoundError:
        return ""


def _libraries(names: set[str]) -> dict[str, str]:
    """Return the installed packages among some names, with distribution and version."""
    found: dict[str, set[str]] = {name: set() for name in names if _find(name) is not None}
    for one in distributions():
        # `packages_distributions` reads each line: a second for a hundred distributions.
        files = "\n" + (one.read_text("RECORD") or "")
        owned = [name for name in found if f"\n{name}/" in files or f"\n{name}.py," in files]
        for name in owned:
            found[name].add(f"{one.metadata['Name']} {one.version}")
    return {name: ", ".join(sorted(owners)) for name, owners in sorted(found.items())}


def _module_of(command: str) -> str:
    """Return the module that a console script runs."""
    points = entry_points(group="console_scripts", name=command)
    return next((point.module for point in points), "")


def _file_of(module: str) -> str:
    """Return the source file of a module, found without importing its package."""
    package, *parts = module.split(".")
    spec = _find(package)
    if spec is None:
        return ""
    if not parts and spec.submodule_search_locations is None:
        return spec.origin or ""
    for folder in spec.submodule_search_locations or ():
        place = Path(folder, *parts)
        for file in (place.with_suffix(".py") if parts else place, place / "__main__.py"):
            if file.is_file():
                return str(file)
    return ""


def _native(package: str) -> str:
    """Return the extension module of a router written in Rust, in or beside its package."""
    name = f"{package}_rs"
    spec = _find(package)
    folders = () if spec is None else spec.submodule_search_locations or ()
    inside = any(path for folder in folders for path in Path(folder).glob(f"{name}.*so"))
    return name if inside or _find(name) is not None else ""


def _submodule_exists(package: str, name: str) -> bool:
    spec = _find(package)
    folders = () if spec is None else spec.submodule_search_locations or ()
    return any(Path(folder, entry).exists() for folder in folders for entry in (name, f"{name}.py"))


def _find(package: str) -> ModuleSpec | None:
    try:
        return find_spec(package) if package else None
    except (ImportError, ValueError):
        return None


if __name__ == "__main__":
    main()
