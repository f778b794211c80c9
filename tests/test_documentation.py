"""The documents name what there is, and the examples run."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from otel_lifecycle.config import environment_variables
from otel_lifecycle.telemetry import semconv

ROOT = Path(__file__).parents[1]


def text(name: str) -> str:
    """One of the project's documents."""
    return (ROOT / name).read_text("utf-8")


def test_every_setting_is_documented() -> None:
    """Each environment variable stands in the page on configuration."""
    page = text("docs/configuration.md")

    assert [name for name in environment_variables() if name not in page] == []


def test_every_name_is_documented() -> None:
    """Each attribute, event and metric stands in the page on telemetry, maybe by its last part."""
    page = text("docs/telemetry.md").replace("{core,memory,memory_bandwidth}", "core")
    names = [
        value.replace("memory_bandwidth", "core").replace(".memory.", ".core.")
        if ".npu." in value
        else value
        for name, value in vars(semconv).items()
        if name.isupper() and isinstance(value, str) and name not in ("SCOPE", "SCHEMA_URL")
    ]
    names = [
        re.sub(r"\.(avg|max)$", ".{avg,max}", name) if ".npu." in name else name for name in names
    ]

    def documented(name: str) -> bool:
        parts = name.split(".")
        tails = (".".join(["", *parts[index:]]) for index in range(1, len(parts)))
        return name in page or any(f"`{tail}`" in page for tail in tails)

    shared = {
        semconv.REROUTED_FROM, semconv.REROUTED_TO, semconv.REROUTED_REASON,
    }  # fmt: skip
    assert [name for name in names if name not in shared and not documented(name)] == []


def test_links_lead_somewhere() -> None:
    """Every file a document names exists."""
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]
    folders = "docs|examples|tests|otel_lifecycle|benchmarks"
    pattern = re.compile(rf"`((?:{folders})/[\w./-]+)`|\]\(([\w./-]+)\)")
    broken = [
        (page.name, found[0] or found[1])
        for page in pages
        for found in pattern.findall(page.read_text("utf-8"))
        if not (ROOT / (found[0] or found[1])).exists()
        and not (page.parent / (found[0] or found[1])).exists()
    ]

    assert broken == []


@pytest.mark.parametrize("name", ["track_requests", "scheduler_hooks"])
def test_example_runs(name: str) -> None:
    """An example does what it says, by itself."""
    environment = {**os.environ, "PYTHONWARNINGS": "error"}
    done = subprocess.run(
        [sys.executable, ROOT / "examples" / f"{name}.py"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert (done.returncode, done.stderr) == (0, "")
    assert "completed" in done.stdout
