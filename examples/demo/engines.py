"""The engines of a demo: their names, roles and speed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from otel_lifecycle.cli.errors import CommandError

MODEL = "Qwen/Qwen3-8B"
NAMESPACE = "demo"
TPOT_MS = 10.0
PREFILL_TOKENS_PER_SECOND = {64: 6_000.0, 512: 40_000.0}  # by block size, that of the workload


def engine_roles(mode: str, engines: int) -> list[str]:
    """Return the roles: `aggregated`, or a leader in front of prefill and decode engines."""
    if mode == "aggregated":
        return ["aggregated"] * engines
    prefills = engines // 2
    if prefills == 0:
        raise CommandError("--engines 1: pd mode needs at least one prefill and one decode engine")
    return ["leader", *["prefill"] * prefills, *["decode"] * (engines - prefills)]


def engine_names(roles: Sequence[str]) -> list[str]:
    """Return a name for each engine: `engine-0`, or its role and a number."""
    numbers: Counter[str] = Counter()
    names: list[str] = []
    for role in roles:
        names.append(f"{'engine' if role == 'aggregated' else role}-{numbers[role]}")
        numbers[role] += 1
    return names
