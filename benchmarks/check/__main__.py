"""Compares the cost of two commits: `make bench-check`, `make bench-check BASE=v0.1.0`.

Each commit has a worktree and an environment of its own, and both are measured by the code of this
checkout, in turns. A figure that got more than 10 % worse makes it fail.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from benchmarks import sink
from benchmarks.check.checkouts import GitError, base_of, check_out, install, link
from benchmarks.check.compare import Commit, Pair, Worse, compare, table, worse
from benchmarks.check.figures import FIGURES
from benchmarks.zero_code.measure import Router, serving, surrounded
from benchmarks.zero_code.programs import BY_EVENT, WHOLE, ZERO_CODE, Lean

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / ".cache" / "bench-check"
_REQUESTS = 160


def main() -> None:
    """Print the table; exit with 1 if a figure got worse."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--base", help="by default the merge base with main")
    parser.add_argument("--head", default="HEAD")
    parser.add_argument("--uv", type=Path, required=True, help="path of uv")
    parser.add_argument("--processes", type=int, default=5, help="pairs of processes")
    parser.add_argument("--rounds", type=int, default=20, help="in each pair")
    options = parser.parse_args()
    harness = link(ROOT, FOLDER / "harness")
    try:
        wanted = {"base": options.base or base_of(ROOT, options.head), "head": options.head}
        revisions = {
            name: check_out(ROOT, FOLDER / name, revision) for name, revision in wanted.items()
        }
    except GitError as error:
        parser.error(str(error))
    base, head = (
        install(options.uv, FOLDER / name, harness, revision)
        for name, revision in revisions.items()
    )
    print(f"base {base.revision[:10]}, head {head.revision[:10]}")
    with sink.running() as collector:
        command = ["-m", "benchmarks.check.figures", collector.url]
        results = compare(base, head, command, FIGURES, options.processes, options.rounds)
    results += _lean_router(base, head, options.processes, options.rounds)
    sys.exit(report(results))


def report(results: list[Worse]) -> int:
    """Print the table, and return the exit code."""
    print("\n".join(table(results)))
    return int(any(result.is_regression for result in results))


def _lean_router(base: Commit, head: Commit, processes: int, rounds: int) -> list[Worse]:
    pairs: dict[str, list[Pair]] = {BY_EVENT: [], WHOLE: []}
    for _ in range(processes):
        with (
            surrounded() as around,
            serving(Lean(base.python, base.harness), ZERO_CODE, around, "base") as older,
            serving(Lean(head.python, head.harness), ZERO_CODE, around, "head") as newer,
        ):
            for kind, measured in pairs.items():
                measured.append(_pair(older, newer, kind))
                measured[-1].run(rounds)
    return [worse(f"lean router, zero code, {kind}", pair) for kind, pair in pairs.items()]


def _pair(older: Router, newer: Router, kind: str) -> Pair:
    return Pair(lambda: older.send(kind, _REQUESTS)[0], lambda: newer.send(kind, _REQUESTS)[0])


if __name__ == "__main__":
    main()
