"""The options of these commands."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from otel_lifecycle.cli.numbers import positive


def add_unhooked(add_parser: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the commands.

    Args:
        add_parser: Adds one, as `argparse` does.
    """
    _add_observe(
        add_parser(
            "observe",
            help="record the requests of a router that cannot be hooked, from Envoy's access log",
            description="Follows the JSON access log of an Envoy that one of the presets in "
            "collector/envoy configures, through rotation, and writes a record of each request. "
            "Spans and metrics are sent if OpenTelemetry's variables name a place, such as "
            "OTEL_EXPORTER_OTLP_ENDPOINT. Exit code: 0, or with --once 1 if something was left "
            "out or did not arrive; 2 for wrong usage, settings or checkpoint, and with --once "
            "for a missing log.",
            allow_abbrev=False,
        )
    )
    _add_import(
        add_parser(
            "import",
            help="make records of the traces of other programs",
            description="Makes records of the request traces of NVIDIA Dynamo's frontend. Exit "
            "code: 0, or 1 if lines are bad, 2 if a file cannot be read.",
            allow_abbrev=False,
        )
    )


def _add_observe(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--envoy-log", metavar="PATH", type=Path, help="the access log")
    parser.add_argument(
        "--otlp",
        metavar="[HOST:]PORT",
        type=_address,
        help="receive the picker's spans over OTLP/gRPC and pass them on, and without --envoy-log "
        "the entries of the access log too (default of HOST: 127.0.0.1)",
    )
    parser.add_argument(
        "--picker-log",
        metavar="PATH",
        type=Path,
        help="the picker's debug log (-v=4): scores, prefix cache hits and predictions",
    )
    parser.add_argument(
        "--picker-wait",
        metavar="SECONDS",
        type=positive,
        default=10.0,
        help="wait so long for what the picker tells of a request that has ended (default: 10)",
    )
    parser.add_argument(
        "--output",
        metavar="RECORDS",
        type=Path,
        help="the record file; without it records are printed, and nothing is resumed",
    )
    parser.add_argument(
        "--checkpoint",
        metavar="FILE",
        type=Path,
        help="file for the progress (default: RECORDS.observe)",
    )
    parser.add_argument(
        "--endpoints",
        metavar="FILE",
        type=Path,
        help="names, namespaces and pods of the endpoints, as JSON or YAML",
    )
    parser.add_argument(
        "--abandon-after",
        metavar="SECONDS",
        type=positive,
        default=3600.0,
        help="count a request as abandoned if its end does not come in time (default: 3600)",
    )
    parser.add_argument(
        "--once", action="store_true", help="exit when everything there is has been recorded"
    )
    parser.set_defaults(run=_observe)


def _address(text: str) -> str:
    """Read `port` or `host:port`."""
    host, _, port = text.rpartition(":")
    if not (port.isdecimal() and 0 < int(port) < 1 << 16):
        raise argparse.ArgumentTypeError(f"must be PORT or HOST:PORT, got {text!r}")
    return f"{host or '127.0.0.1'}:{port}"


def _add_import(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", choices=("dynamo",), help="the program that wrote the files")
    parser.add_argument(
        "paths",
        metavar="FILE",
        type=Path,
        nargs="+",
        help="lines of dynamo.request.trace.v1, plain or compressed (.gz)",
    )
    parser.add_argument(
        "--output",
        metavar="RECORDS",
        type=Path,
        help="the record file to append to; without it records are printed",
    )
    parser.set_defaults(run=_import)


def _observe(arguments: argparse.Namespace) -> int:
    from otel_lifecycle.cli.unhooked.observe import ObserveOptions, run

    options = {name: value for name, value in vars(arguments).items() if name != "run"}
    return run(ObserveOptions(**options))


def _import(arguments: argparse.Namespace) -> int:
    from otel_lifecycle.cli.unhooked.import_ import run

    return run(arguments.paths, arguments.output)
