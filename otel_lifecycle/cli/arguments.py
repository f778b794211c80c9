"""The commands and their options; a command's imports are done when it runs."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import NoReturn

from otel_lifecycle.cli.errors import USAGE, CommandError, require
from otel_lifecycle.cli.numbers import between, positive, whole_number
from otel_lifecycle.cli.policies.arguments import (
    add_engines_and_trace,
    add_policies,
    add_targets,
)
from otel_lifecycle.cli.prediction.arguments import add_prediction
from otel_lifecycle.cli.unhooked.arguments import add_unhooked
from otel_lifecycle.version import __version__

_PATH_HELP = (
    "a record file, including the closed segments rotated from it; a single closed segment; or a "
    "folder, for its files *.jsonl and *.jsonl.gz"
)
_EXIT_CODES = (
    "Exit code: 0 if every line is a record, 1 if not, 2 if a path is missing, cannot be read or "
    "was deleted before it was read."
)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(USAGE, f"{self.prog}: {' '.join(message.split())} (try {self.prog} --help)\n")


def build_parser() -> argparse.ArgumentParser:
    """Build the parser; `run` of its result is the command."""
    parser = _Parser(
        prog="otel-lifecycle",
        description="Records, checks and exports the requests of an LLM router.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    _add_demo(
        commands.add_parser(
            "demo",
            help="run an example router with simulated engines and show what is recorded",
            description="Starts simulated engines and an example router under "
            "opentelemetry-instrument, sends requests for about 20 seconds, shows the records and "
            "stops everything.",
            allow_abbrev=False,
        )
    )
    doctor = commands.add_parser(
        "doctor",
        help="show what would be instrumented here, and where telemetry would go",
        description="Shows what `opentelemetry-instrument COMMAND` would find: packages, "
        "instrumentations and their hooks, settings, the record file, and the destinations of "
        "spans and metrics. It starts no router. Exit code: 0 if it would work, 1 if a problem "
        "prevents it.",
        allow_abbrev=False,
    )
    doctor.add_argument(
        "command",
        metavar="COMMAND",
        nargs="*",
        help="the command that starts the router, after `--` (default: examine this environment)",
    )
    doctor.add_argument(
        "--envoy",
        metavar="CONFIG",
        type=Path,
        help="instead, show what `observe` would learn from the access log of this Envoy "
        "configuration, in YAML or JSON",
    )
    doctor.set_defaults(run=_doctor)
    report = commands.add_parser(
        "report",
        help="summarize record files",
        description="Shows outcomes, a few requests on a time axis, predicted and actual latency, "
        "and the load of each endpoint. With --output it writes a page with charts instead: what "
        "happened, targets, balance, prefix cache, predictor, failures, the longest waits. "
        f"{_EXIT_CODES}",
        allow_abbrev=False,
    )
    _add_report(report)
    export = commands.add_parser(
        "export",
        help="write records for other tools: Parquet, CSV, Perfetto, Mooncake, llm-d",
        description="Writes records in the format of another tool. parquet: a folder with the "
        "tables requests and endpoints, partitioned by day and model; each run adds new records. "
        "csv: one of these tables. perfetto: a timeline for ui.perfetto.dev. mooncake: a trace to "
        f"replay. llm-d: training rows of llm-d's latency predictor. {_EXIT_CODES}",
        allow_abbrev=False,
    )
    _add_export(export)
    validate = commands.add_parser(
        "validate",
        help="check record files",
        description="Counts the records of each file and lists the invalid lines. An unfinished "
        "last line is listed but does not count: its writer may complete it. "
        f"{_EXIT_CODES}",
        allow_abbrev=False,
    )
    validate.set_defaults(run=_validate)
    tail = commands.add_parser(
        "tail",
        help="print records, optionally as they are written",
        description="Prints the records of files as JSON Lines, in the order of each file, and "
        f"lists invalid lines on standard error. {_EXIT_CODES}",
        allow_abbrev=False,
    )
    tail.add_argument(
        "--follow",
        action="store_true",
        help="continue with new records, through rotation, until interrupted",
    )
    tail.set_defaults(run=_tail)
    top = commands.add_parser(
        "top",
        help="show live what a router does, from the records it writes",
        description="Shows the requests that ended within a window up to now: rates, latencies "
        "and outcomes, each endpoint with its load, the slowest requests, and why one went where "
        "it went. Without a terminal it prints plain lines. Exit code: 0 if it was stopped, 2 if "
        "a path is missing or cannot be read.",
        allow_abbrev=False,
    )
    _add_top(top)
    ship = commands.add_parser(
        "ship",
        help="send records as OTLP spans, as they are written",
        description="Follows record files and sends their records as OTLP spans, each at least "
        "once. OpenTelemetry's variables, such as OTEL_EXPORTER_OTLP_ENDPOINT, configure the "
        "export. Exit code: 0 if everything was sent, or without --once if it was stopped; 1 if "
        "--once skipped or did not reach something; 2 for wrong usage, variables or checkpoint.",
        allow_abbrev=False,
    )
    _add_ship(ship)
    add_unhooked(commands.add_parser)
    judge = add_policies(commands.add_parser)
    _add_selection(judge)
    train = add_prediction(commands.add_parser)
    for command in (report, export, validate, tail, top, ship, judge, train):
        command.add_argument("paths", metavar="PATH", type=Path, nargs="+", help=_PATH_HELP)
    return parser


def _add_report(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-o",
        "--output",
        metavar="FILE",
        type=Path,
        help="write the report as one HTML page, which needs no network; other options are for it",
    )
    add_targets(parser)
    parser.add_argument(
        "--link",
        metavar="URL",
        default="",
        help="link to the traces in your tool; {trace_id} in it stands for the id, as in "
        "http://localhost:16686/trace/{trace_id}",
    )
    _add_selection(parser)
    parser.set_defaults(run=_report)


def _add_export(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--format",
        choices=("parquet", "csv", "perfetto", "mooncake", "llm-d"),
        required=True,
        help="the format to write",
    )
    parser.add_argument(
        "-o",
        "--output",
        metavar="PATH",
        type=Path,
        required=True,
        help="the file to write; for parquet, the folder",
    )
    parser.add_argument(
        "--rows",
        choices=("requests", "endpoints"),
        default="requests",
        help="for csv: one row per request, or one row per endpoint of it (default: %(default)s)",
    )
    _add_selection(parser)
    parser.set_defaults(run=_export)


def _add_selection(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--where",
        metavar="SQL",
        default="",
        help="only requests for which this is true; docs/tables.md lists the columns",
    )
    parser.add_argument(
        "--since",
        metavar="TIME",
        default="",
        help="only requests dispatched since then: a duration such as 30m or 24h before now, or a "
        "date or time in UTC such as 2026-11-29 or 2026-11-29T08:00:00Z",
    )


def _add_top(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--window",
        metavar="DURATION",
        type=between("1s", "24h"),
        default="60s",
        help="length of the window, 1s to 24h (default: %(default)s)",
    )
    parser.add_argument(
        "--every",
        metavar="DURATION",
        type=between("100ms", "1h"),
        default="1s",
        help="time between two frames, 100ms to 1h (default: %(default)s)",
    )
    parser.add_argument(
        "--metrics",
        metavar="URL",
        action="append",
        default=[],
        help="metrics page of a router for Prometheus: what is in flight now; once per router",
    )
    parser.add_argument("--once", action="store_true", help="print one frame and exit")
    parser.set_defaults(run=_top)


def _add_ship(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--checkpoint",
        metavar="FILE",
        type=Path,
        required=True,
        help="file for the position up to which the collector has accepted records",
    )
    parser.add_argument(
        "--once", action="store_true", help="exit when all current records have been sent"
    )
    parser.add_argument(
        "--all", action="store_true", help="also send requests that were not sampled"
    )
    parser.add_argument(
        "--devices", action="store_true", help="add the per-device NPU arrays to the spans"
    )
    parser.set_defaults(run=_ship)


def _add_demo(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--mode",
        choices=("pd", "aggregated"),
        default="pd",
        help="separate prefill and decode engines, or both on each engine (default: %(default)s)",
    )
    add_engines_and_trace(parser)
    parser.add_argument(
        "--requests",
        metavar="N",
        type=whole_number(1),
        default=300,
        help="number of requests (default: %(default)s)",
    )
    parser.add_argument(
        "--speed",
        metavar="X",
        type=positive,
        help="run the workload, engines included, X times as fast "
        "(default: 1; for a trace, the speed that gives 15 requests per second)",
    )
    parser.add_argument(
        "--output",
        metavar="DIR",
        type=Path,
        help="folder to keep records, logs and page in (default: only the page is kept)",
    )
    parser.add_argument(
        "--seed",
        metavar="N",
        type=whole_number(0),
        default=0,
        help="seed of the bundled workload (default: %(default)s)",
    )
    parser.set_defaults(run=_demo)


def _demo(arguments: argparse.Namespace) -> int:
    require(
        "demo", "demo", "duckdb", "httpx", "opentelemetry.distro", "rich", "starlette", "uvicorn"
    )
    from otel_lifecycle.cli.demo import run

    return run(arguments)


def _doctor(arguments: argparse.Namespace) -> int:
    from otel_lifecycle.cli.doctor import run

    return run(arguments.command, arguments.envoy)


def _report(arguments: argparse.Namespace) -> int:
    require("report", "cli", "rich")
    if arguments.output is None:
        from otel_lifecycle.cli.report import run

        for name in ("ttft", "tpot", "link", "where", "since"):
            if getattr(arguments, name):
                raise CommandError(f"--{name} is for the page: --output FILE is missing")
        return run(arguments.paths)
    require("report --output", "report", "duckdb")
    from otel_lifecycle.cli.page import PageOptions, run_page

    options = {name: value for name, value in vars(arguments).items() if name != "run"}
    return run_page(PageOptions(**options))


def _export(arguments: argparse.Namespace) -> int:
    require("export", "report", "duckdb")
    if arguments.format == "llm-d":
        require("export --format llm-d", "collect", "aiohttp")
    from otel_lifecycle.cli.export import ExportOptions, run

    options = {name: value for name, value in vars(arguments).items() if name != "run"}
    return run(ExportOptions(**options))


def _validate(arguments: argparse.Namespace) -> int:
    from otel_lifecycle.cli.records.validate import run

    return run(arguments.paths)


def _tail(arguments: argparse.Namespace) -> int:
    from otel_lifecycle.cli.records.tail import run

    return run(arguments.paths, follow=arguments.follow)


def _top(arguments: argparse.Namespace) -> int:
    require("top", "top", "rich", "prompt_toolkit")
    from otel_lifecycle.cli.records.top import TopOptions, run

    options = {name: value for name, value in vars(arguments).items() if name != "run"}
    return run(TopOptions(**options))


def _ship(arguments: argparse.Namespace) -> int:
    from otel_lifecycle.cli.records.ship import ShipOptions, run

    options = {name: value for name, value in vars(arguments).items() if name != "run"}
    return run(ShipOptions(**options))
