"""A trained model."""

from __future__ import annotations

from pathlib import Path

import pytest

from otel_lifecycle.cli import main
from tests.cli.records import write
from tests.prediction.learnable import records


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of these requests."""
    folder = tmp_path_factory.mktemp("model")
    assert (
        main(["train", str(write(folder / "records.jsonl", *records())), "-o", str(folder / "m")])
        == 0
    )
    return folder / "m"
