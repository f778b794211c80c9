"""What it costs to record a decision: 8 candidates with their scores.

Run with `python -m benchmarks.decision`. The same request says nothing of its candidates, how many
there were, or all of them; the three take turns in one process. So do three choices among 10,000
candidates: the best, the one in the middle, and the last.
"""

from __future__ import annotations

import random
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import msgspec
from opentelemetry.sdk.trace import TracerProvider

from benchmarks.budget import Budget
from benchmarks.requests import (
    CACHED_TOKENS,
    FORTY_ATTRIBUTES,
    OUTPUT_TOKENS,
    endpoint,
    start,
    tracker,
)
from benchmarks.timing import Timed, Variant, difference, interleave
from otel_lifecycle import (
    Candidate,
    Endpoint,
    LatencyPrediction,
    LifecycleRecord,
    RequestStart,
    Route,
    RouteEndpoint,
    read_records,
)

CANDIDATES = 8
ROUNDS = 60
REQUESTS = 100
CROWD = 10_000
CROWD_ROUNDS = 20


@dataclass(frozen=True)
class Said:
    """A request that says something of its candidates.

    Attributes:
        title: What it says.
        path: The request, on its path.
        encoding: The encoding of its record.
        record_bytes: The size of its record.
    """

    title: str
    path: Timed
    encoding: Timed
    record_bytes: int


@dataclass(frozen=True)
class Decision:
    """Nothing, a count, all candidates.

    Attributes:
        said: The three.
    """

    said: tuple[Said, Said, Said]

    @property
    def budgets(self) -> list[Budget]:
        """The promises."""
        nothing, _, scored = self.said
        what = f"{CANDIDATES} scored candidates"
        return [
            Budget(
                f"{what}, on the path",
                3.0,
                difference(scored.path, nothing.path),
                "us",
                why="Half of it is for naming candidates at all, the rest for copying the state of "
                "their endpoints",
            ),
            Budget(
                f"{what}, encoding them",
                4.0,
                difference(scored.encoding, nothing.encoding),
                "us",
                why="Most of it is msgspec's formatting of 56 numbers",
            ),
        ]


def measure() -> Decision:
    """Take some seconds."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        starts = {
            "nothing": None,
            "their number": CANDIDATES,
            f"{CANDIDATES} candidates with scores": _candidates(),
        }
        paths: list[Variant] = []
        encodings: list[Variant] = []
        sizes: list[int] = []
        for title, candidates in starts.items():
            said = start("request", FORTY_ATTRIBUTES)
            begin = msgspec.structs.replace(said, candidates=candidates)
            path, record = _path(folder, title, begin)
            encode = msgspec.json.Encoder().encode
            paths.append(path)
            encodings.append(Variant(title, _encoding(encode, record)))
            sizes.append(len(encode(record)))
        interleave(paths, ROUNDS, REQUESTS)
        interleave(encodings, ROUNDS, REQUESTS)
    nothing, counted, scored = (
        Said(title, path.timed, encoding.timed, size)
        for title, path, encoding, size in zip(starts, paths, encodings, sizes, strict=True)
    )
    return Decision((nothing, counted, scored))


def measure_crowd() -> dict[str, float]:
    """The milliseconds that 10,000 candidates add to the path, by the rank of the chosen one."""
    crowd = tuple(
        Candidate(Endpoint("llm", address=f"10.0.{number >> 8}.{number & 255}", port="8000"), score)
        for number, score in enumerate(random.Random(7).sample(range(CROWD), CROWD))
    )
    ranked = sorted(crowd, key=lambda one: cast("int", one.score), reverse=True)
    with tempfile.TemporaryDirectory() as name:
        nothing, *choices = (
            _path(
                Path(name),
                title,
                RequestStart("request", Route(RouteEndpoint(chosen)), candidates=candidates),
            )[0]
            for title, chosen, candidates in (
                ("none of them", ranked[0].endpoint, None),
                ("the best", ranked[0].endpoint, crowd),
                ("one in the middle", ranked[CROWD // 2].endpoint, crowd),
                ("the last", ranked[-1].endpoint, crowd),
            )
        )
        interleave([nothing, *choices], CROWD_ROUNDS, 5)
    return {each.timed.name: difference(each.timed, nothing.timed) / 1e3 for each in choices}


def _candidates() -> tuple[Candidate, ...]:
    """What a policy knows of each engine when it has scored them."""
    return tuple(
        Candidate(
            known.endpoint,
            round(0.9 - number / 10, 3),
            {"prefix": 0.42, "load": round(number / CANDIDATES, 3)},
            prefix_cache_score=0.42,
            prediction=LatencyPrediction(210.0 + number, 18.5),
            metrics=known.metrics,
        )
        for number in range(CANDIDATES)
        for known in (endpoint(f"qwen-{number + 1}"),)
    )


def _path(folder: Path, title: str, begin: RequestStart) -> tuple[Variant, LifecycleRecord]:
    lifecycles = tracker(folder, title, TracerProvider(shutdown_on_exit=False))
    if isinstance(begin.candidates, tuple):
        for candidate in cast("tuple[Candidate, ...]", begin.candidates):
            lifecycles.store.add_endpoint(candidate.endpoint)

    def run(number: int) -> None:
        tracked = lifecycles.track(msgspec.structs.replace(begin, request_id=f"request-{number}"))
        tracked.chunk()
        tracked.complete(OUTPUT_TOKENS, CACHED_TOKENS)

    run(0)
    lifecycles.flush()
    record = next(read_records(folder / f"{title}.jsonl"))
    return Variant(title, run, lifecycles.flush), record


def _encoding(
    encode: Callable[[LifecycleRecord], bytes], record: LifecycleRecord
) -> Callable[[int], bytes]:
    return lambda _: encode(record)


def main() -> None:
    """Print the figures."""
    decision = measure()
    print(f"Python {sys.version.split()[0]}, {ROUNDS} rounds of {REQUESTS}")
    for said in decision.said:
        print(
            f"{said.title}: {said.path.path.median:.1f} us on the path, "
            f"{said.encoding.path.median:.1f} us of encoding, {said.record_bytes:,} bytes"
        )
    print("\n".join(map(str, decision.budgets)))
    for chosen, milliseconds in measure_crowd().items():
        print(f"{CROWD:,} candidates, {chosen} is chosen: {milliseconds:.1f} ms on the path")


if __name__ == "__main__":
    main()
