"""Compares policies by the measures of their runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from otel_lifecycle.analysis.formatting import UNKNOWN, milliseconds
from otel_lifecycle.analysis.policies.intervals import Estimate, mean
from otel_lifecycle.analysis.policies.measures import Measures

_COLUMNS = {
    "goodput": "good %",
    "ttft_p50_ms": "TTFT\np50",
    "ttft_p99_ms": "\np99",
    "tpot_p50_ms": "TPOT\np50",
    "tpot_p99_ms": "\np99",
    "cached": "cached\n%",
    "busiest": "busiest\n×",
    "regret_ms": "regret\nmean",
}
_SHARES = ("goodput", "cached")

Comparison = Mapping[str, Mapping[str, Estimate | None]]
"""By policy and measure: the mean over runs, with the interval of 95 % confidence."""


def compare(runs: Mapping[str, Sequence[Measures]]) -> Comparison:
    """Return the comparison of policies; a measure that a run does not know is None.

    Args:
        runs: The measures of each run, by policy; at least one of each.
    """
    return {policy: _means(measures) for policy, measures in runs.items()}


def print_comparison(comparison: Comparison, runs: int, console: Console) -> None:
    """Print a table, a row a policy.

    Args:
        comparison: What to print.
        runs: Runs of each policy.
        console: The terminal.
    """
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="")
    table.add_column("\npolicy", no_wrap=True)
    shown = [name for name in _COLUMNS if any(row[name] for row in comparison.values())]
    for name in shown:
        table.add_column(_COLUMNS[name], justify="right", no_wrap=True)
    for policy, measures in comparison.items():
        table.add_row(policy, *(_cell(name, measures[name]) for name in shown))
    console.print(table)
    meaning = "latencies in ms"
    if runs > 1:
        meaning += f"; means of {runs} runs, below them ± half of the 95 % interval"
    console.print(Text(meaning, style="dim"))


def _means(measures: Sequence[Measures]) -> dict[str, Estimate | None]:
    result: dict[str, Estimate | None] = {}
    for name in Measures.__struct_fields__:
        values = [getattr(run, name) for run in measures]
        result[name] = None if None in values else mean(values)
    return result


def _cell(name: str, estimate: Estimate | None) -> str:
    if estimate is None:
        return UNKNOWN
    scale = 100.0 if name in _SHARES else 1.0
    cell = milliseconds(estimate.value * scale)
    if estimate.high is not None:
        cell += f"\n± {milliseconds((estimate.high - estimate.value) * scale)}"
    return cell


def as_json(comparison: Comparison) -> bytes:
    """Return the comparison as JSON."""
    return msgspec.json.format(msgspec.json.encode(comparison, order="deterministic"), indent=1)
