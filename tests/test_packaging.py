"""Imports are declared, declarations are locked, and the README works on an index page."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from functools import cache
from importlib.metadata import distributions, requires
from importlib.util import find_spec
from pathlib import Path

import pytest
from hatchling.metadata.core import ProjectMetadata
from hatchling.plugin.manager import PluginManager
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "otel_lifecycle"
NAME = "otel-lifecycle"
PICTURES = "https://raw.githubusercontent.com/otel-lifecycle/otel-lifecycle/main/"
REPOSITORY = "https://github.com/otel-lifecycle/otel-lifecycle/blob/main/"

# The folders and modules that need an extra.
NEEDS = {
    "ml": ("prediction/trained/", "cli/prediction/train.py", "cli/prediction/predict.py"),
    "collect": ("state/fetch.py", "prediction/llm_d.py"),
    "table": (
        "analysis/tables/",
        "analysis/exports/",
        "analysis/page/",
        "cli/export.py",
        "cli/page.py",
        "cli/selection.py",
    ),
    "envoy": ("observation/envoy/config.py",),
    "top": ("analysis/live/", "cli/records/top.py"),
    "cli": ("analysis/", "cli/report.py", "cli/terminal.py"),
}
# The package and its examples, and names that only type checkers see.
OWN = {"otel_lifecycle", "demo", "simulation", "_typeshed"}
# A client library and its parts, used only if a router has called it.
OF_THE_ROUTER = {"aiohttp", "multidict", "yarl"}


def modules() -> list[Path]:
    """The modules of the package."""
    return sorted(PACKAGE.rglob("*.py"))


def imported(path: Path) -> Iterator[str]:
    """The third-party modules that a module imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            within = (f"{node.module}.{alias.name}" for alias in node.names)
            names = [name for name in within if is_module(name)] or [node.module]
        for name in names:
            if name.partition(".")[0] not in {*sys.stdlib_module_names, *OWN}:
                yield name


def is_module(name: str) -> bool:
    """Return whether a module exists."""
    try:
        return find_spec(name) is not None
    except ModuleNotFoundError:
        return False


@cache
def declared(extra: str = "") -> set[str]:
    """The distributions that the package declares, with an extra and without."""
    found: set[str] = set()
    for text in requires(NAME) or []:
        requirement = Requirement(text)
        if requirement.marker and not any(
            requirement.marker.evaluate({"extra": one}) for one in {"", extra}
        ):
            continue
        if requirement.name == NAME:
            found.update(*(declared(one) for one in requirement.extras))
        else:
            found.add(canonicalize_name(requirement.name))
    return found


@pytest.fixture(scope="session")
def owners() -> dict[str, str]:
    """The distribution of each installed file."""
    found: dict[str, str] = {}
    for distribution in distributions():
        name = canonicalize_name(distribution.name)  # parsed at each access
        found |= {str(distribution.locate_file(file)): name for file in distribution.files or []}
    return found


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_are_declared(path: Path, owners: dict[str, str]) -> None:
    """An imported module belongs to a declared distribution, not to another's dependency."""
    place = str(path.relative_to(PACKAGE))
    needs = (extra for extra, places in NEEDS.items() if place.startswith(places))
    known = declared(next(needs, ""))
    undeclared = []
    for name in imported(path):
        spec = find_spec(name)
        assert spec is not None, f"{name} is not installed"
        owner = owners[spec.origin or ""]
        if owner not in known | OF_THE_ROUTER:
            undeclared.append((name, owner))

    assert undeclared == []


def locked(name: str) -> dict[str, list[Requirement]]:
    """The pins of a lock file by distribution; some have several, by marker."""
    pins: dict[str, list[Requirement]] = {}
    for line in (ROOT / "requirements" / f"{name}.txt").read_text("utf-8").splitlines():
        if line and line[0] not in "# ":
            pin = Requirement(line.removesuffix(" \\"))
            pins.setdefault(canonicalize_name(pin.name), []).append(pin)
    return pins


def all_declared(*extras: str) -> Iterator[Requirement]:
    """The requirements in pyproject.toml with some extras, whatever is installed."""
    core = ProjectMetadata(str(ROOT), PluginManager()).core
    texts = [
        *core.dependencies,
        *(one for extra in extras for one in core.optional_dependencies[extra]),
    ]
    for text in texts:
        requirement = Requirement(text)
        if requirement.name == NAME:
            yield from all_declared(*requirement.extras)
        else:
            yield requirement


@pytest.mark.parametrize("extra", ["test", "demo", "dev", "backends"])
def test_lock_fits_what_is_declared(extra: str) -> None:
    """Each requirement is locked in a version it allows; if not, run `make lock`."""
    pins = locked(extra)
    unfit = [
        f"{requirement} is not met by {pin}"
        for requirement in all_declared(extra)
        for pin in pins[canonicalize_name(requirement.name)]
        if not requirement.specifier.contains(next(iter(pin.specifier)).version, prereleases=True)
    ]

    assert unfit == []


@pytest.mark.parametrize("extra", ["dev", "backends"])
def test_locks_agree(extra: str) -> None:
    """Every other lock keeps the versions of the tests' lock; the demo's has no others."""
    demo, theirs, ours = (
        {name: {str(pin.specifier) for pin in pins} for name, pins in locked(lock).items()}
        for lock in ("demo", "test", extra)
    )

    assert demo.items() <= theirs.items() <= ours.items()


@pytest.mark.parametrize(
    "path", sorted((ROOT / "requirements").iterdir()), ids=lambda path: path.name
)
def test_locks_hold_hashes_and_no_address(path: Path) -> None:
    """A lock has versions and hashes, and leaves the index to pip."""
    text = path.read_text("utf-8")
    pins = re.findall(r"^[a-z0-9._-]+==\S+.*(?:\\\n    --hash=sha256:[0-9a-f]{64} ?)+$", text, re.M)

    assert len(pins) == sum(line[0] not in "# " for line in text.splitlines() if line)
    assert "://" not in text
    assert not re.search("^-", text, re.M)


def test_links_of_the_readme_work_on_an_index_page() -> None:
    """Every link leads to another site or to a file of the repository."""
    text = ProjectMetadata(str(ROOT), PluginManager()).core.readme
    links = re.findall(r"\]\(([^)]*)\)", text)
    own = [
        link.removeprefix(start)
        for start in (REPOSITORY, PICTURES)
        for link in links
        if link.startswith(start)
    ]

    assert [link for link in links if not link.startswith(("https://", "#"))] == []
    assert [path for path in own if not (ROOT / path).exists()] == []
    assert len(own) > 10
    assert {"docs/report.png", "benchmarks/results.svg"} <= set(own)


def test_badges_of_the_readme_are_true() -> None:
    """They name the Pythons and the licence that are declared, and a workflow that exists."""
    text = (ROOT / "README.md").read_text("utf-8")
    core = ProjectMetadata(str(ROOT), PluginManager()).core
    versions = re.findall(r"Python :: (3\.\d+)", "\n".join(core.classifiers))
    (workflow,) = set(re.findall(r"/actions/(workflows/[a-z]+\.yml)/badge\.svg", text))

    assert f"[![Python {versions[0]} to {versions[-1]}](" in text
    assert f"/badge/python-{versions[0]}_to_{versions[-1]}-" in text
    assert f"[![Licence {core.license_expression}](" in text
    assert f"/badge/licence-{core.license_expression.replace('-', '--')}-" in text
    assert (ROOT / ".github" / workflow).exists()
