"""Measures two commits in turns, and tells which figures got worse."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from typing import NamedTuple, TypeAlias

LIMIT = 1.10

Round: TypeAlias = Callable[[], float]
"""Measures one round of a figure, in microseconds."""


class Commit(NamedTuple):
    """A commit with its environment.

    Attributes:
        revision: Its hash.
        python: The interpreter that runs it.
        harness: The folder to run it in: it has the benchmarks, but not the package.
    """

    revision: str
    python: Path
    harness: Path


class Worse(NamedTuple):
    """How a figure of the newer commit compares.

    Attributes:
        name: The figure.
        base_us: The older commit, microseconds.
        head_us: The newer one.
        ratios: The fastest round of the newer one to that of the older, by pair of processes: a
            busy machine makes rounds slower, never faster.
        missing: Why it could not be measured; empty if it could.
    """

    name: str
    base_us: float = 0.0
    head_us: float = 0.0
    ratios: Sequence[float] = ()
    missing: str = ""

    @property
    def ratio(self) -> float:
        """The median of the pairs; 1 if there are none."""
        return median(self.ratios) if self.ratios else 1.0

    @property
    def is_regression(self) -> bool:
        """Whether it is more than 10 % slower, and slower in each pair of processes.

        Two processes of one commit may differ by some percent, because their memory is laid out
        differently. It is chance, so that it does not go the same way in all pairs.
        """
        return self.ratio > LIMIT and min(self.ratios) > 1.0


class Pair:
    """The rounds of one figure in one pair of processes."""

    def __init__(self, base: Round, head: Round) -> None:
        self._measures = base, head
        self.base_us: list[float] = []
        self.head_us: list[float] = []

    def run(self, rounds: int) -> None:
        """Measure both in turns; which is first changes, as does what a busy machine slows."""
        base, head = self._measures
        for measure in self._measures:  # warm up
            measure()
        for number in range(rounds):
            if number % 2:
                self.head_us.append(head())
                self.base_us.append(base())
            else:
                self.base_us.append(base())
                self.head_us.append(head())


def worse(name: str, pairs: Sequence[Pair]) -> Worse:
    """Return how a figure compares."""
    return Worse(
        name,
        median(min(pair.base_us) for pair in pairs),
        median(min(pair.head_us) for pair in pairs),
        [min(pair.head_us) / min(pair.base_us) for pair in pairs],
    )


class Worker:
    """A process that measures the figures of one commit.

    Attributes:
        missing: Why some figures cannot be measured, by name.
    """

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.missing: dict[str, str] = json.loads(self._answer())

    def measure(self, name: str) -> float:
        """Return one round, in microseconds."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{name}\n")
        self._process.stdin.flush()
        return float(self._answer())

    def _answer(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("a measuring process ended early; its error is above")
        return line


@contextmanager
def working(commit: Commit, command: Sequence[str]) -> Iterator[Worker]:
    """Run a worker of a commit."""
    with subprocess.Popen(
        [str(commit.python), *command],
        cwd=commit.harness,
        env={"PYTHONPATH": "examples", "PYTHONHASHSEED": "0"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield Worker(process)
        finally:
            process.kill()


def compare(
    base: Commit,
    head: Commit,
    command: Sequence[str],
    names: Iterable[str],
    processes: int,
    rounds: int,
) -> list[Worse]:
    """Compare figures that workers measure.

    Args:
        base: The older commit.
        head: The newer one.
        command: The arguments of the interpreter that make a worker.
        names: The figures.
        processes: Pairs of processes.
        rounds: Rounds of each figure in each pair.
    """
    pairs: dict[str, list[Pair]] = {name: [] for name in names}
    missing: dict[str, str] = {}
    for _ in range(processes):
        with ExitStack() as stack:
            older, newer = (
                stack.enter_context(working(commit, command)) for commit in (base, head)
            )
            for worker, commit in ((older, base), (newer, head)):
                for name, reason in worker.missing.items():
                    missing[name] = f"not comparable, {commit.revision[:10]} raises {reason}"
            for name in pairs.keys() - missing.keys():
                pair = Pair(_round(older, name), _round(newer, name))
                pair.run(rounds)
                pairs[name].append(pair)
    return [
        Worse(name, missing=missing[name]) if name in missing else worse(name, measured)
        for name, measured in pairs.items()
    ]


def _round(worker: Worker, name: str) -> Round:
    return lambda: worker.measure(name)


def table(results: Iterable[Worse]) -> Iterator[str]:
    """Return the lines of a table."""
    yield f"{'CPU, µs':<44}{'base':>10}{'head':>10}{'ratio':>8}   least to most"
    for result in results:
        if result.missing:
            yield f"{result.name:<44}{result.missing}"
            continue
        told = "   SLOWER" if result.is_regression else ""
        yield (
            f"{result.name:<44}{result.base_us:10.2f}{result.head_us:10.2f}{result.ratio:8.3f}"
            f"   {min(result.ratios):.2f} to {max(result.ratios):.2f}{told}"
        )
