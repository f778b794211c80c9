"""Reads selected samples of a Prometheus exposition, fast and strictly.

An engine serves hundreds of series, of which about ten are needed, and a router has hundreds of
engines. So one regular expression finds the needed lines, and only these are parsed.
`benchmarks/exposition.py` compares it with a full parse.

Formats: Prometheus text 0.0.4 and OpenMetrics 1.0. A line that is not a valid sample is skipped,
and so is the last line of a truncated body. Nothing is guessed, and nothing raises.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

# Linear in the length of any line: no two adjacent parts match the same character.
_NUMBER = r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?"
_STRING = r'"[^"\\\n]*(?:\\[\\"n][^"\\\n]*)*"'
_PAIR = rf"(?:[A-Za-z_]\w*|{_STRING})[ \t]*=[ \t]*{_STRING}[ \t]*(?:,[ \t]*|(?=\}}))"
_LABELS = rf"(?P<labels>(?:{_PAIR})*)\}}[ \t]*"
_SAMPLE = (
    rf"(?P<value>{_NUMBER}|[+-]?(?i:nan|inf|infinity))"
    rf"(?:[ \t]+(?P<timestamp>{_NUMBER}))?"
    r"[ \t]*(?:[ \t]#[^\n]*)?(?=\n)"  # an OpenMetrics exemplar
)
_LABEL = re.compile(
    r'(?:(\w+)|"([^"\\]*(?:\\.[^"\\]*)*)")[ \t]*=[ \t]*"([^"\\]*(?:\\.[^"\\]*)*)"', re.ASCII
)
_QUOTED_NAME = re.compile(r'\n[ \t]*\{[ \t]*"')
_ESCAPE = re.compile(r"\\(.)")
_OPENMETRICS_END = (b"# EOF\n", b"# EOF")


class Sample(NamedTuple):
    """One value of a series.

    Attributes:
        name: Name of the metric, with its suffix (`_total`).
        labels: Its labels.
        value: Its value; may be NaN or infinite.
        observed_at: The sample's timestamp, in seconds since the epoch; None if it has none.
    """

    name: str
    labels: dict[str, str]
    value: float
    observed_at: float | None


class SampleReader:
    """Reads the samples of some metrics, and skips all others. Thread-safe."""

    def __init__(self, names: Iterable[str]) -> None:
        alternatives = "|".join(map(re.escape, names))
        # Searching for a line feed is several times faster than for `^`.
        self._pattern = re.compile(
            rf"\n[ \t]*(?P<name>{alternatives})(?:[ \t]*\{{[ \t]*{_LABELS}|[ \t]+)" + _SAMPLE,
            re.ASCII,
        )
        # Since Prometheus 3 a name may be in quotes, before the labels.
        self._quoted = re.compile(
            rf'\n[ \t]*\{{[ \t]*"(?P<name>{alternatives})"[ \t]*(?:,[ \t]*|(?=\}})){_LABELS}'
            + _SAMPLE,
            re.ASCII,
        )

    def read(self, exposition: bytes) -> Iterator[Sample]:
        """Yield the samples of these metrics, in order.

        Args:
            exposition: The body; invalid UTF-8 is replaced.
        """
        # Timestamps are milliseconds in the text format, seconds in OpenMetrics.
        unit = 1.0 if exposition.endswith(_OPENMETRICS_END) else 1000.0
        text = "\n" + exposition.decode("utf-8", "replace").removeprefix("\ufeff")
        matches = self._pattern.finditer(text)
        if _QUOTED_NAME.search(text):
            found = [*matches, *self._quoted.finditer(text)]
            matches = iter(sorted(found, key=lambda match: match.start()))
        for match in matches:
            name, labels, value, timestamp = match.groups()
            observed_at = None
            if timestamp is not None:
                observed_at = float(timestamp) / unit
                if not math.isfinite(observed_at):
                    continue
            yield Sample(name, _labels(labels) if labels else {}, float(value), observed_at)


def _labels(text: str) -> dict[str, str]:
    labels = {plain or quoted: value for plain, quoted, value in _LABEL.findall(text)}
    if "\\" in text:
        return {
            _ESCAPE.sub(_unescape, name): _ESCAPE.sub(_unescape, value)
            for name, value in labels.items()
        }
    return labels


def _unescape(match: re.Match[str]) -> str:
    return "\n" if match[1] == "n" else match[1]
