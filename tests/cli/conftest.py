"""Fixtures: commands whose processes are gone when the test ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from tests.cli.command import Command


@pytest.fixture
def start() -> Iterator[Callable[..., Command]]:
    """Starts `otel-lifecycle` with arguments, and an `environment` if that is given."""
    with ExitStack() as stack:

        def start(*arguments: object, **options: dict[str, str]) -> Command:
            command = Command(*map(str, arguments), **options)
            stack.callback(command.close)
            return command

        yield start
