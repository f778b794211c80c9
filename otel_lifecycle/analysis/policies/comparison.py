"""Compares policies by the measures of their runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from otel_lifecycle.analysis.policies.intervals import Estimate, mean
from otel_lifecycle.analysis.policies.measures import Measures

Comparison = Mapping[str, Mapping[str, Estimate | None]]
"""By policy and measure: the mean over runs, with the interval of 95 % confidence."""


def compare(runs: Mapping[str, Sequence[Measures]]) -> Comparison:
    """Return the comparison of policies; a measure that a run does not know is None.

    Args:
        runs: The measures of each run, by policy; at least one of each.
    """
    return {policy: _means(measures) for policy, measures in runs.items()}


def _means(measures: Sequence[Measures]) -> dict[str, Estimate | None]:
    result: dict[str, Estimate | None] = {}
    for name in Measures.__struct_fields__:
        values = [getattr(run, name) for run in measures]
        result[name] = None if None in values else mean(values)
    return result
