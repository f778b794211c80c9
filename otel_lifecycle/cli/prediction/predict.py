"""`otel-lifecycle predict`: serves a trained predictor."""

from __future__ import annotations

from pathlib import Path

from aiohttp import web

from otel_lifecycle.cli.errors import CommandError
from otel_lifecycle.prediction.trained import ModelError, TrainedModel
from otel_lifecycle.prediction.trained.service import application


def run(path: Path, host: str, port: int) -> int:
    """Serve until a signal; return the exit code."""
    try:
        model = TrainedModel.load(path)
    except ModelError as error:
        raise CommandError(str(error)) from None
    try:
        web.run_app(application(model), host=host, port=port, access_log=None)
    except OSError as error:
        raise CommandError(f"{host}:{port}: {error.strerror or error}") from error
    return 0
