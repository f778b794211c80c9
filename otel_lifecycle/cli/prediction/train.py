"""`otel-lifecycle train`: trains a predictor on records, or checks one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from otel_lifecycle.cli.errors import FAILED, CommandError
from otel_lifecycle.cli.record_paths import warn_of_missing
from otel_lifecycle.cli.terminal import open_console
from otel_lifecycle.model.record import LifecycleRecord
from otel_lifecycle.prediction.trained import ModelError, TrainedModel
from otel_lifecycle.prediction.trained.training import TrainingError, drift, has_drifted, train_on
from otel_lifecycle.records import RecordError, read_records


def train(paths: Sequence[Path], output: Path) -> int:
    """Train a model, print its errors and write it; return the exit code."""
    try:
        model = train_on(_read(paths))
    except TrainingError as error:
        raise CommandError(str(error)) from None
    try:
        model.save(output)
    except OSError as error:
        raise CommandError(f"--output {output}: {error.strerror or error}") from error
    console = open_console()
    for target, judged in model.card["targets"].items():
        _print(console, target, judged)
    return 0


def check(paths: Sequence[Path], path: Path) -> int:
    """Print a model's error on records beside the one it had; return the exit code."""
    try:
        errors = drift(TrainedModel.load(path), _read(paths))
    except (ModelError, TrainingError) as error:
        raise CommandError(str(error)) from None
    console, exit_code = open_console(), 0
    for target, (now, then) in errors.items():
        drifted = has_drifted(now, then)
        verdict = "drifted: train it again" if drifted else "fine"
        console.print(f"{target.value}: mean error {now:.4g} ms, was {then:.4g} ms: {verdict}")
        exit_code = FAILED if drifted else exit_code
    return exit_code


def _read(paths: Sequence[Path]) -> Iterator[LifecycleRecord]:
    if warn_of_missing(paths):
        raise CommandError("train needs all of its files")
    try:
        for path in paths:
            yield from read_records(path)
    except RecordError as error:
        raise CommandError(str(error)) from None


def _print(console: Console, target: str, judged: dict[str, Any]) -> None:
    console.print(
        f"{target.upper()}: mean absolute error on the last {judged['held out']:,} requests, "
        f"trained on {judged['rows']:,}",
        soft_wrap=True,
    )
    table = Table(box=None, pad_edge=False)
    table.add_column("predicted by")
    table.add_column("ms", justify="right")
    for name, error in judged["errors"].items():
        table.add_row(name, "-" if error is None else f"{error:.4g}")
    console.print(table)
    known = sorted(judged["importance"].items(), key=lambda one: -one[1])
    learnt = ", ".join(f"{name} {share:.0%}" for name, share in known if share >= 0.01)
    console.print(f"learnt from: {learnt}\n", soft_wrap=True)
