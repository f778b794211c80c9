"""What a store is given: where its records go, and who asks for the state of its endpoints."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol


class RecordSink(Protocol):
    """Where the finished records of a store go."""

    @property
    def queued(self) -> int:
        """Records waiting to be written."""
        ...

    @property
    def written(self) -> int:
        """Records written."""
        ...

    @property
    def dropped(self) -> int:
        """Records lost."""
        ...

    def close(self, timeout: float) -> None:
        """Writes what is queued and takes no more, in `timeout` seconds at most."""
        ...


class StateCollector(Protocol):
    """What asks engines and devices for the state of a store's endpoints."""

    def ensure_running(self) -> None:
        """Starts it where it is not running, as in a forked child."""
        ...

    def targets(self) -> Mapping[tuple[str, str], int]:
        """How many targets there are by source and state."""
        ...

    def close(self, timeout: float) -> None:
        """Stops it, in `timeout` seconds at most."""
        ...
