"""Fixtures: processes to break, and the table of the results.

If `FAULT_TABLE` names a page, the table is written into it, between its markers.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.faults.processes import Worker, wait_for_housekeeping
from tests.faults.table import Result, as_markdown, put_into
from tests.full_disk import mounted
from tests.records.helpers import ROOT

_RESULTS = pytest.StashKey[list[Result]]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_RESULTS] = []


@pytest.fixture
def report(request: pytest.FixtureRequest) -> Callable[[Result], None]:
    """Add a result to the table, and fail if the promise was not kept."""

    def report(result: Result) -> None:
        request.config.stash[_RESULTS].append(result)
        assert result.kept, result

    return report


@pytest.fixture
def folder() -> Iterator[Path]:
    """The folder of the records; unlike `tmp_path` an unprivileged user can reach it."""
    parent = Path(tempfile.mkdtemp(prefix="otel-lifecycle-"))
    parent.chmod(0o755)
    folder = parent / "records"
    folder.mkdir()
    yield folder
    wait_for_housekeeping()
    shutil.rmtree(parent)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB."""
    with mounted(tmp_path / "disk") as folder:
        yield folder


@pytest.fixture
def start_worker(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Worker]]:
    """Start processes from `tests.faults.workers`, which end before the folder is deleted."""
    workers: list[Worker] = []
    monkeypatch.setenv("PYTHONPATH", str(ROOT))  # for its imports
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.faults.workers"])

    def start(target: Callable[..., None], *arguments: object) -> Worker:
        worker = Worker(context, target, *arguments)
        workers.append(worker)
        return worker

    yield start
    for worker in workers:
        worker.close()


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    results = config.stash[_RESULTS]
    if not results:
        return
    table = as_markdown(results)
    terminalreporter.section("faults")
    terminalreporter.write_line(table)
    if page := os.environ.get("FAULT_TABLE"):
        put_into(Path(page), table)
