"""From a trace to a router that predicts better: simulate, train, load the model, compare.

    python examples/train_predictor.py mooncake_conversation_trace.jsonl --output folder

Each step is a command that is printed before it runs. The model learns from the first 70 % of the
trace. On the rest the same router then runs with its own predictor and with the model, once for
each seed, which determines when requests arrive.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

from otel_lifecycle.cli import main as otel_lifecycle

LEARNT = 0.7


def main() -> int:
    """Run the steps until one fails; return its exit code."""
    parser = argparse.ArgumentParser(description="Trains a predictor on a trace, and tries it.")
    parser.add_argument("trace", type=Path, help="a Mooncake trace (JSON Lines)")
    parser.add_argument("--output", type=Path, required=True, help="the folder to create")
    parser.add_argument("--rate", default="5", help="requests per second (default: 5)")
    parser.add_argument("--seeds", default="5", help="runs to compare (default: 5)")
    options = parser.parse_args()
    try:
        with options.trace.open("rb") as lines:
            learnt = int(LEARNT * sum(1 for _ in lines))
        options.output.mkdir(parents=True)
    except OSError as error:
        parser.error(str(error))
    for command in steps(options, learnt):
        print(f"\n$ otel-lifecycle {shlex.join(command)}", flush=True)
        exit_code = otel_lifecycle(command)
        if exit_code:
            return exit_code
    return 0


def steps(options: argparse.Namespace, learnt: int) -> Iterator[list[str]]:
    """Yield the arguments of each command."""
    records, model = options.output / "records.jsonl", options.output / "model.json"
    workload = ["simulate", "--trace", str(options.trace), "--rate", options.rate]
    # One request in twenty goes anywhere, so that the model also sees what the router avoids.
    yield [*workload, "--requests", str(learnt), "--explore", "0.05", "--output", str(records)]
    yield ["train", str(records), "-o", str(model)]
    yield [
        *workload,
        *("--skip", str(learnt), "--seeds", options.seeds, "--seed", "1"),
        *("--policy", "prediction", "--model", str(model), "--ttft", "1s", "--tpot", "20ms"),
        *("--json", str(options.output / "comparison.json")),
    ]


if __name__ == "__main__":
    sys.exit(main())
