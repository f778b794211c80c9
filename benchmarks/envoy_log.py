"""What the access log of a preset costs Envoy: its CPU for a stream, with and without the log.

Run it with `python -m benchmarks.envoy_log` after `make test-envoy`, which installs Envoy.
"""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path
from typing import Any, Final

from tests.envoy.clients import Ask, run
from tests.envoy.picker import Picker
from tests.envoy.programs import Engine, Envoy

PRESET: Final = "1.38"
REQUESTS: Final = 400
AT_ONCE: Final = 16
ROUNDS: Final = 5
TOKENS: Final = 32


def main() -> None:
    """Prints the CPU of Envoy for one stream, in milliseconds, and the ratio."""
    with tempfile.TemporaryDirectory() as folder, Picker() as picker:
        engine = Engine(Path(folder))
        try:
            costs: dict[bool, list[float]] = {True: [], False: []}
            for number in range(ROUNDS):
                for logs in costs:
                    place = Path(folder, f"{number}-{logs}")
                    place.mkdir()
                    costs[logs].append(cost(place, picker, engine, logs=logs))
        finally:
            engine.close()
    medians = {logs: statistics.median(found) for logs, found in costs.items()}
    ratios = [ours / bare for ours, bare in zip(costs[True], costs[False], strict=True)]
    print(
        f"Envoy's CPU a stream of {TOKENS} tokens: {medians[True]:.2f} ms with the log, "
        f"{medians[False]:.2f} ms without; ratio {statistics.median(ratios):.2f} "
        f"({min(ratios):.2f} to {max(ratios):.2f})"
    )


def cost(folder: Path, picker: Picker, engine: Engine, *, logs: bool) -> float:
    """The CPU of one Envoy for a stream, in milliseconds."""
    envoy = Envoy(folder, PRESET, picker, change=None if logs else without_logs)
    try:
        run(envoy.port, _asks("warm", engine, AT_ONCE), AT_ONCE)
        before = envoy.cpu_seconds()
        run(envoy.port, _asks("r", engine, REQUESTS), AT_ONCE)
        return (envoy.cpu_seconds() - before) / REQUESTS * 1e3
    finally:
        envoy.close()


def without_logs(manager: dict[str, Any]) -> None:
    """Takes from an HTTP connection manager what the log needs; the picker stays."""
    for key in ("access_log", "access_log_options"):
        del manager[key]
    *_, picker, _, router = manager["http_filters"]
    for key in ("upstream_log", "upstream_log_options"):
        del router["typed_config"][key]
    manager["http_filters"] = [picker, router]


def _asks(name: str, engine: Engine, count: int) -> list[Ask]:
    return [Ask(f"{name}-{number}", engine.address, tokens=TOKENS) for number in range(count)]


if __name__ == "__main__":
    main()
