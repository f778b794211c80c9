"""The documents list everything that exists, and the examples run."""

from __future__ import annotations

import inspect
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.metrics import NoOpMeter, NoOpMeterProvider

from otel_lifecycle import RequestLifecycleTracker, TrackerConfig
from otel_lifecycle.config import environment_variables
from otel_lifecycle.model import semconv
from scripts.docs import generated

ROOT = Path(__file__).parents[2]


def text(name: str) -> str:
    """Return one of the project's documents."""
    return (ROOT / name).read_text("utf-8")


def test_every_setting_is_documented() -> None:
    """Each environment variable is on the page on configuration."""
    page = text("docs/configuration.md")

    assert [name for name in environment_variables() if name not in page] == []


def test_every_name_is_documented() -> None:
    """Each attribute, event and metric is on the page on telemetry, by its full name."""
    page = text("docs/telemetry.md")
    names = {
        value
        for name, value in vars(semconv).items()
        if name.isupper() and isinstance(value, str) and name not in ("SCOPE", "SCHEMA_URL")
    }

    assert sorted(name for name in names if f"`{name}`" not in page) == []


class RecordingMeter(NoOpMeter):
    """A meter that remembers the instruments it was asked for, and their units."""

    def __init__(self) -> None:
        super().__init__("recording")
        self.instruments: dict[str, str] = {}

    def __getattribute__(self, name: str) -> Any:
        create = super().__getattribute__(name)
        if not name.startswith("create_"):
            return create

        def remember(*args: Any, **kwargs: Any) -> Any:
            given = inspect.signature(create).bind(*args, **kwargs).arguments
            kind = name.rpartition("_")[2]
            self.instruments[given["name"]] = f"{kind}, {given['unit']}"
            return create(*args, **kwargs)

        return remember


class RecordingMeterProvider(NoOpMeterProvider):
    """A provider of a single recording meter."""

    def __init__(self) -> None:
        self.meter = RecordingMeter()

    def get_meter(self, *args: Any, **kwargs: Any) -> RecordingMeter:
        return self.meter


def test_metrics_are_documented() -> None:
    """The table of metrics has exactly the existing ones, with instrument and unit."""
    provider = RecordingMeterProvider()
    RequestLifecycleTracker(TrackerConfig(store_name="docs"), meter_provider=provider).close()
    _, _, section = text("docs/telemetry.md").partition("## Metrics")
    rows = re.findall(r"^\| `([a-z_.]+)` \| (\w+, [^ ]+) \|", section, re.MULTILINE)

    assert dict(rows) == provider.meter.instruments


@pytest.mark.parametrize("path", generated())
def test_generated_files_are_up_to_date(path: str) -> None:
    """The schema and the tables match the declarations; `make docs` writes them."""
    assert text(path) == generated()[path], "stale: run `make docs`"


def test_links_lead_somewhere() -> None:
    """Every file named in a document exists."""
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]
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
    """Each example runs on its own and prints the expected outcome."""
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
