"""A trained model: a JSON file with gradient-boosted trees and what is known of their quality."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from otel_lifecycle.prediction.trained.rows import FEATURES, Floats, Target
from otel_lifecycle.prediction.trained.trees import MEDIAN, Trees
from otel_lifecycle.runtime.text import shown

FORMAT = "otel-lifecycle-predictor"
VERSION = 1
_MAX_BYTES = 256 * 1024 * 1024


class ModelError(ValueError):
    """A file is no model that can be used; the text names it and says why."""


class _File(msgspec.Struct):
    format: str
    version: int
    features: list[str]
    trees: dict[Target, dict[str, str]]
    card: dict[str, Any]


class TrainedModel:
    """Predicts each target: the median, and other quantiles. Immutable and thread-safe.

    Args:
        trees: For each target the trees of each quantile, such as `0.5`.
        card: What is known of it; see `docs/predictor.md`.

    Attributes:
        card: As given.
        quantiles: The quantiles of each target.
    """

    def __init__(self, trees: Mapping[Target, Mapping[float, Trees]], card: dict[str, Any]) -> None:
        self._trees = trees
        self.card = card
        self.quantiles = {target: tuple(quantiles) for target, quantiles in trees.items()}

    def predict(self, target: Target, features: Floats, quantile: float = MEDIAN) -> Floats:
        """Return latencies in milliseconds, one per row of features; NaN if it has no such trees.

        Args:
            target: What to predict.
            features: One row per prediction, with the columns of `FEATURES`.
            quantile: One of `quantiles`.
        """
        trees = self._trees.get(target, {}).get(quantile)
        if trees is None or not len(features):
            return np.full(len(features), np.nan)
        return trees.predict(features)

    def importance(self, target: Target) -> dict[str, float]:
        """Return the share of each feature in what the trees of a target learnt."""
        trees = self._trees.get(target, {}).get(MEDIAN)
        gains = [] if trees is None else trees.gains()
        total = sum(gains) or 1.0
        return {name: gain / total for name, gain in zip(FEATURES, gains, strict=False)}

    def save(self, path: Path) -> None:
        """Write it to a file, which appears only when it is whole.

        Raises:
            OSError: The file cannot be written.
        """
        trees = {
            target: {str(quantile): one.text for quantile, one in quantiles.items()}
            for target, quantiles in self._trees.items()
        }
        content = msgspec.json.encode(_File(FORMAT, VERSION, list(FEATURES), trees, self.card))
        unfinished = path.with_name(f"{path.name}.tmp")
        try:
            unfinished.write_bytes(content)
            unfinished.replace(path)
        except BaseException:
            with contextlib.suppress(OSError):
                unfinished.unlink()
            raise

    @classmethod
    def load(cls, path: Path) -> TrainedModel:
        """Read a model from a file.

        Raises:
            ModelError: The file cannot be read, is no model, is newer than this version, or has
                features that this version does not know.
        """
        try:
            with open(path, "rb") as file:
                content = file.read(_MAX_BYTES)
        except OSError as error:
            raise ModelError(f"{path}: {error.strerror or error}") from error
        try:
            read = msgspec.json.decode(content, type=_File)
        except msgspec.MsgspecError as error:
            raise ModelError(f"{path}: is no model of `otel-lifecycle train`: {error}") from error
        if read.format != FORMAT:
            raise ModelError(f"{path}: format must be {FORMAT!r}, got {shown(read.format)}")
        if read.version != VERSION:
            raise ModelError(f"{path}: version must be {VERSION}, got {read.version}")
        if tuple(read.features) != FEATURES:
            other = sorted(set(read.features) ^ set(FEATURES))
            raise ModelError(
                f"{path}: was trained on other features ({shown(other or read.features)}); "
                "train it again with this version"
            )
        try:
            trees = {
                target: {float(quantile): Trees(text) for quantile, text in quantiles.items()}
                for target, quantiles in read.trees.items()
            }
            return cls(trees, read.card)
        except ValueError as error:
            raise ModelError(f"{path}: has broken trees: {error}") from error
