"""Encodes what is queued as lines of the record file."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from otel_lifecycle.telemetry.told import Entry


class LineEncoder:
    """Encodes entries, each as a line. Thread-safe.

    Args:
        content: Returns what stands for an entry that is not yet a record.
        count_drop: Called with the reason for each entry that cannot be encoded.
    """

    def __init__(self, content: Callable[[Any], object], count_drop: Callable[[str], None]) -> None:
        self._encoder = msgspec.json.Encoder(enc_hook=content)
        self._count_drop = count_drop

    def encode(self, entries: list[Entry]) -> tuple[bytes, list[Entry]]:
        """Return the lines, and the entries that are in them."""
        try:
            return self._encoder.encode_lines(entries), entries
        except Exception:
            entries = [entry for entry in entries if self._can_encode(entry)]
            return self._encoder.encode_lines(entries), entries

    def _can_encode(self, entry: Entry) -> bool:
        try:
            self._encoder.encode(entry)
        except Exception as error:
            self._count_drop(f"a record cannot be encoded: {error}")
            return False
        return True
