"""Every command that a page shows can be typed: programs, options, targets, modules, variables."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from otel_lifecycle import LifecycleRecord, RequestStart, Route, read_records
from otel_lifecycle.cli.arguments import build_parser
from otel_lifecycle.config import environment_variables
from tests.conftest import Bench
from tests.routes import bare

ROOT = Path(__file__).parents[2]
PAGES = [
    *ROOT.glob("*.md"),
    *(ROOT / "docs").glob("*.md"),
    *(ROOT / "collector").rglob("*.md"),
    *(ROOT / "examples").rglob("*.md"),
]
_BLOCK = re.compile(r"^( *)```(console|sh|shell|dockerfile|yaml|ini)\n(.*?)^\1```", re.M | re.S)
_VARIABLE = re.compile(r"\bOTEL_LIFECYCLE_[A-Z_]*[A-Z]\b(?![*{_])")
# Set for the tests of this project, or read by a program of the page itself.
_OF_OTHERS = {"OTEL_LIFECYCLE_TRACE"}


def blocks(*languages: str) -> Iterator[tuple[str, str]]:
    """The name of a page and the text of a block, for each block in these languages."""
    for page in PAGES:
        for found in _BLOCK.finditer(page.read_text("utf-8")):
            if found[2] in languages:
                yield page.name, found[3]


def commands() -> Iterator[tuple[str, list[str]]]:
    """The name of a page and the words of a command, for each command in a block for a shell."""
    for page, block in blocks("console", "sh", "shell"):
        lines = block.replace("\\\n", " ").splitlines()
        prompted = any(line.lstrip().startswith("$ ") for line in lines)
        for line in lines:
            command = line.strip()
            if prompted and not command.startswith("$ "):
                continue  # what it prints
            for part in re.split(r" (?:\||&&|;) |[&;]$", command.removeprefix("$ ")):
                if words := _words(part):
                    yield page, words


def _words(command: str) -> list[str]:
    try:
        words = shlex.split(command, comments=True)
    except ValueError:  # a quote that goes on in the next line
        return []
    while words and re.match(r"[A-Za-z_]+=", words[0]):
        words = words[1:]
    return words[1:] if words[:1] == ["export"] else words


def test_commands_of_the_package_are_accepted() -> None:
    """The parser takes every `otel-lifecycle ...` of the pages."""
    refused: list[tuple[str, list[str]]] = []
    parser = build_parser()
    found = [(page, words) for page, words in commands() if words[0] == "otel-lifecycle"]
    for page, words in found:
        arguments = [word for word in words[1:] if not re.fullmatch(r"[0-9]*>.*", word)]
        try:
            parser.parse_args(arguments)
        except SystemExit:
            refused.append((page, words))

    assert len(found) > 12
    assert refused == []


def test_targets_of_make_exist() -> None:
    """Every `make TARGET` of the pages is a target."""
    targets = set(re.findall(r"^([a-z-]+)(?: [a-z-]+)*:", (ROOT / "Makefile").read_text(), re.M))
    targets |= set(re.findall(r"\S+", re.findall(r"^\.PHONY: (.*)", _makefile(), re.M)[0]))
    asked = {(page, word) for page, words in commands() if words[0] == "make" for word in words[1:]}

    assert asked
    assert {one for one in asked if "=" not in one[1] and one[1] not in targets} == set()


def _makefile() -> str:
    return (ROOT / "Makefile").read_text("utf-8").replace("\\\n", " ")


def test_modules_exist() -> None:
    """Every `python -m MODULE` of ours can be found."""
    modules = {
        (page, words[2])
        for page, words in commands()
        if words[0].startswith("python") and words[1:2] == ["-m"]
    }
    ours = {one for one in modules if one[1].split(".")[0] in {"benchmarks", "scripts", "examples"}}

    assert ours
    assert {one for one in ours if find_spec(one[1]) is None} == set()


def test_variables_exist() -> None:
    """Every variable of ours that a page names is a setting."""
    known = set(environment_variables()) | _OF_OTHERS
    named = {
        (page.name, name) for page in PAGES for name in _VARIABLE.findall(page.read_text("utf-8"))
    }

    assert len(named) > 50
    assert {one for one in named if one[1] not in known} == set()


@pytest.mark.parametrize("page", ["record-file.md", "ml-engineers.md"])
def test_training_recipe_yields_rows_without_engine_state(bench: Bench, page: str) -> None:
    """The recipe takes a request whose features are missing, as those under zero code are."""
    with bench.tracker.track(RequestStart("request-1", Route(bare("qwen-0")))) as tracked:
        bench.clock.advance(milliseconds=250)
        tracked.chunk()
        tracked.complete()
    (record,) = bench.records
    assert record.missing_feature_reasons
    text = (ROOT / "docs" / page).read_text("utf-8")
    recipe = next(
        code for code in re.findall(r"```python\n(.*?)```", text, re.S) if "train(" in code
    )
    rows: list[object] = []

    def read(_path: str) -> Iterator[LifecycleRecord]:
        return read_records(bench.path)

    code = recipe.replace("from otel_lifecycle import read_records\n", "")
    exec(code, {"read_records": read, "train": lambda *row: rows.append(row)})

    assert rows == [(record.prediction_inputs, record.actual)]
