"""Numbers among the arguments."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from math import isfinite


def whole_number(minimum: int) -> Callable[[str], int]:
    """Return what reads a whole number that is not below a minimum."""

    def parse(text: str) -> int:
        if not text.isdecimal() or int(text) < minimum:
            raise argparse.ArgumentTypeError(f"must be a whole number >= {minimum}, got {text!r}")
        return int(text)

    return parse


def positive(text: str) -> float:
    """Read a number above 0."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not (isfinite(value) and value > 0):
        raise argparse.ArgumentTypeError(f"must be a number > 0, got {text!r}")
    return value
