"""The options of these commands."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from otel_lifecycle.cli.errors import require
from otel_lifecycle.cli.numbers import fraction, milliseconds, positive, whole_number


def add_policies(
    add_parser: Callable[..., argparse.ArgumentParser],
) -> argparse.ArgumentParser:
    """Add the commands.

    Args:
        add_parser: Adds one, as `argparse` does.

    Returns:
        The one that reads records.
    """
    _add_simulate(
        add_parser(
            "simulate",
            help="compare routing policies on a workload, in virtual time",
            description="Runs the example router and simulated engines in one process, in virtual "
            "time, once for each policy and seed. Prints goodput, latencies, prefix-cache hits, "
            "balance and regret of each policy, and writes the records of every run. Equal options "
            "give equal records.",
            allow_abbrev=False,
        )
    )
    judge = add_parser(
        "judge",
        help="estimate from records what other routing policies would have achieved",
        description="Estimates goodput and mean latencies of other policies from the records of a "
        "router that chose partly by chance, by inverse propensity; without chance it gives bounds "
        "of goodput. The records must hold the endpoints considered (docs/decisions.md). Exit "
        "code: 0 if every line is a record, 1 if not, 2 for unusable input.",
        allow_abbrev=False,
    )
    add_targets(judge)
    judge.add_argument("--json", metavar="FILE", type=Path, help="write the result as JSON, too")
    judge.set_defaults(run=_judge)
    return judge


def add_engines_and_trace(parser: argparse.ArgumentParser) -> None:
    """Add the options for what the example router is run with."""
    parser.add_argument(
        "--engines",
        metavar="N",
        type=whole_number(1),
        default=4,
        help="number of engines; in pd mode half of them prefill (default: %(default)s)",
    )
    parser.add_argument(
        "--trace",
        metavar="FILE",
        type=Path,
        help="replay a Mooncake trace (JSON Lines) instead of the bundled workload",
    )


def add_targets(parser: argparse.ArgumentParser) -> None:
    """Add the options for latency targets."""
    for name, meaning, example in (
        ("ttft", "time to first token", "500ms"),
        ("tpot", "time per output token", "20ms"),
    ):
        parser.add_argument(
            f"--{name}",
            metavar="DURATION",
            type=milliseconds,
            help=f"target for the {meaning}, such as {example} (default: none, and no verdict)",
        )


def _add_simulate(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--policy",
        metavar="NAME",
        action="append",
        help="a routing policy: least_load, prediction, prefix, prefix+load+prediction (default), "
        "random or round_robin; repeat it to compare several",
    )
    parser.add_argument(
        "--mode",
        choices=("aggregated", "pd"),
        default="aggregated",
        help="both prefill and decode on each engine, or separate engines (default: %(default)s)",
    )
    add_engines_and_trace(parser)
    parser.add_argument(
        "--requests",
        metavar="N",
        type=whole_number(1),
        help="number of requests (default: 1000, or all of the trace)",
    )
    parser.add_argument(
        "--skip",
        metavar="N",
        type=whole_number(0),
        default=0,
        help="leave out the first N of the trace, such as those a model learnt from (default: 0)",
    )
    pace = parser.add_mutually_exclusive_group()
    pace.add_argument(
        "--speed",
        metavar="X",
        type=positive,
        help="send the requests X times as fast; the engines keep their speed (default: 1)",
    )
    pace.add_argument(
        "--rate",
        metavar="R",
        type=positive,
        help="send R requests per second at random times (a Poisson process) instead",
    )
    parser.add_argument(
        "--explore",
        metavar="FRACTION",
        type=fraction,
        default=0.0,
        help="send this fraction of the requests to endpoints chosen by chance (default: 0)",
    )
    parser.add_argument(
        "--model",
        metavar="MODEL",
        type=Path,
        help="run the policies that look at predictions once more, with this model of `train` in "
        "place of the router's own predictor",
    )
    add_targets(parser)
    parser.add_argument(
        "--seed",
        metavar="N",
        type=whole_number(0),
        default=0,
        help="seed of the bundled workload, of --rate and of all chance (default: %(default)s)",
    )
    parser.add_argument(
        "--seeds",
        metavar="N",
        type=whole_number(1),
        default=1,
        help="run each policy with N seeds, from --seed on (default: %(default)s)",
    )
    parser.add_argument(
        "--output",
        metavar="RECORDS",
        type=Path,
        help="the record file to write; with several runs, a folder for their files",
    )
    parser.add_argument(
        "--json", metavar="FILE", type=Path, help="write the comparison as JSON, too"
    )
    parser.set_defaults(run=_simulate)


def _simulate(arguments: argparse.Namespace) -> int:
    require("simulate", "demo", "anyio", "duckdb", "httpx", "rich")
    from otel_lifecycle.cli.policies.simulate import run

    return run(arguments)


def _judge(arguments: argparse.Namespace) -> int:
    require("judge", "report", "duckdb", "rich")
    from otel_lifecycle.cli.policies.judge import JudgeOptions, run

    options = {name: value for name, value in vars(arguments).items() if name != "run"}
    return run(JudgeOptions(**options))
