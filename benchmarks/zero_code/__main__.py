"""Prints the table: `python -m benchmarks.zero_code`."""

from __future__ import annotations

import argparse

from benchmarks.results.zero_code import tables
from benchmarks.zero_code.measure import REQUESTS, ROUNDS, attempt
from benchmarks.zero_code.programs import PROGRAMS


def main() -> None:
    """Measure some routers."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--requests", type=int, default=REQUESTS, help="in one round, about")
    parser.add_argument("--routers", nargs="+", choices=PROGRAMS, default=list(PROGRAMS))
    options = parser.parse_args()
    results = [
        attempt(PROGRAMS[name](), options.rounds, options.requests) for name in options.routers
    ]
    print("\n".join(tables(results)))


if __name__ == "__main__":
    main()
