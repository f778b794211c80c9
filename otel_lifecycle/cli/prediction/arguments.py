"""The options of these commands."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from otel_lifecycle.cli.errors import require


def add_prediction(add_parser: Callable[..., argparse.ArgumentParser]) -> argparse.ArgumentParser:
    """Add the commands.

    Args:
        add_parser: Adds one, as `argparse` does.

    Returns:
        The one that reads records.
    """
    train = add_parser(
        "train",
        help="train a latency predictor on records, or check one",
        description="Trains gradient-boosted trees for TTFT and TPOT on the records of completed "
        "requests, and prints their errors on the latest requests beside those of the median, of a "
        "linear model and of the router's own predictions. With --check it compares a model's "
        "error on newer records with the error it had, and exits with 1 if it has drifted.",
        allow_abbrev=False,
    )
    what = train.add_mutually_exclusive_group(required=True)
    what.add_argument("-o", "--output", metavar="MODEL", type=Path, help="write the model here")
    what.add_argument("--check", metavar="MODEL", type=Path, help="check this model instead")
    train.set_defaults(run=_train)
    serve = add_parser(
        "predict",
        help="serve a trained predictor over the HTTP API of llm-d's predictor",
        description="Answers POST /predict and /predict/bulk as llm-d's prediction server does, so "
        "that llm-d's router, or a router with OTEL_LIFECYCLE_PREDICTION_URL, can ask the model.",
        allow_abbrev=False,
    )
    serve.add_argument("model", metavar="MODEL", type=Path, help="a model that `train` wrote")
    serve.add_argument(
        "--host", default="127.0.0.1", help="the address to listen on (default: %(default)s)"
    )
    serve.add_argument(
        "--port", type=_port, default=8001, help="the port to listen on (default: %(default)s)"
    )
    serve.set_defaults(run=_predict)
    return train


def _train(arguments: argparse.Namespace) -> int:
    require("train", "ml", "lightgbm", "numpy", "rich")
    from otel_lifecycle.cli.prediction.train import check, train

    if arguments.check is not None:
        return check(arguments.paths, arguments.check)
    return train(arguments.paths, arguments.output)


def _predict(arguments: argparse.Namespace) -> int:
    require("predict", "ml", "lightgbm", "numpy", "aiohttp")
    from otel_lifecycle.cli.prediction.predict import run

    return run(arguments.model, arguments.host, arguments.port)


def _port(text: str) -> int:
    if not text.isdecimal() or not 0 <= int(text) <= 65_535:
        raise argparse.ArgumentTypeError(f"must be a port, 0 to 65535, got {text!r}")
    return int(text)
