"""A long run through the lean router under zero code: is anything kept of a finished request?

Run with `make bench-soak`, or `python -m benchmarks.zero_code.soak --requests 300000`. It prints
the curve, and `make bench` copies it from `benchmarks/soak.json` into the results.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Sequence
from pathlib import Path
from urllib.request import urlopen

import msgspec

from benchmarks.zero_code.client import CONNECTIONS
from benchmarks.zero_code.measure import Router, serving, surrounded
from benchmarks.zero_code.processes import ROOT
from benchmarks.zero_code.programs import AT_ONCE, BY_EVENT, WHOLE, ZERO_CODE, Lean, Surroundings
from otel_lifecycle.version import __version__

RESULT = ROOT / "benchmarks" / "soak.json"
POINTS = 15
_TURN = 960  # requests of one kind
_KINDS = (AT_ONCE, WHOLE, BY_EVENT)


class Point(msgspec.Struct, frozen=True):
    """The idle router after so many requests.

    Attributes:
        requests: The number of requests so far.
        kilobytes: Resident memory.
        objects: Objects that the garbage collector tracks, after a collection.
        threads: Number of threads.
        lag_p50_ms: Lag of the event loop since the previous point, milliseconds.
        lag_p99_ms: The same.
    """

    requests: int
    kilobytes: int
    objects: int
    threads: int
    lag_p50_ms: float
    lag_p99_ms: float


class Soak(msgspec.Struct, frozen=True):
    """The curve.

    Attributes:
        version: Version of the package.
        python: Version of Python.
        connections: Requests at once.
        points: The points, in order.
    """

    version: str
    python: str
    connections: int
    points: Sequence[Point]


class SizedLean(Lean):
    """The lean router that tells its size."""

    def command(self, port: int, variant: str, around: Surroundings) -> Sequence[str]:
        command = list(super().command(port, variant, around))
        command[command.index("-m") + 1] = "benchmarks.zero_code.sized_router"
        return command


def last() -> Soak | None:
    """Return the curve that was measured last; None if none was."""
    if not RESULT.exists():
        return None
    return msgspec.json.decode(RESULT.read_bytes(), type=Soak)


def measure(requests: int) -> Soak:
    """Send that many requests; print the points as they come."""
    points: list[Point] = []
    step = max(1, round(requests / POINTS / _TURN / len(_KINDS)))
    with surrounded() as around, serving(SizedLean(), ZERO_CODE, around, "soak") as router:
        while router.served < requests:
            for kind in _KINDS * step:
                router.send(kind, _TURN)
            points.append(_size(router))
            print(points[-1], flush=True)
        router.check()
    return Soak(__version__, platform.python_version(), CONNECTIONS, points)


def _size(router: Router) -> Point:
    time.sleep(6)  # until everything is exported
    with urlopen(f"{router.url}/size") as response:
        return Point(router.served, **json.loads(response.read()))


def main() -> None:
    """Measure, and keep the curve."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--requests", type=int, default=300_000)
    parser.add_argument("--output", type=Path, default=RESULT)
    options = parser.parse_args()
    soak = measure(options.requests)
    options.output.write_bytes(msgspec.json.format(msgspec.json.encode(soak), indent=1) + b"\n")


if __name__ == "__main__":
    main()
