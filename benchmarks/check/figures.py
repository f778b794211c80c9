"""Measures the key figures of one commit, round by round: `python -m benchmarks.check.figures URL`.

Run by the interpreter of the commit's environment, from a folder where this module is found but not
the package. It prints a line of JSON with the reasons why some figures cannot be measured, and then
for each name that it reads one round, in microseconds.
"""

from __future__ import annotations

import gc
import json
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from benchmarks.timing import Variant

REQUESTS = 200  # in a round


class Figure(NamedTuple):
    """One figure.

    Attributes:
        open: Prepares it, given a folder and the URL of a collector.
        items: What one run of the variant handles.
        everything: Whether all threads count, until everything is settled.
    """

    open: Callable[[Path, str], Variant]
    items: int = 1
    everything: bool = False


# What a figure needs is imported where it is measured: an older commit may not have it.
def _sampled(folder: Path, url: str) -> Variant:
    from opentelemetry.sdk.trace.sampling import ALWAYS_ON

    from benchmarks.hot_path import ours
    from benchmarks.requests import FORTY_ATTRIBUTES

    return ours(folder, "sampled", FORTY_ATTRIBUTES, url, ALWAYS_ON)


def _unsampled(folder: Path, url: str) -> Variant:
    from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ParentBased

    from benchmarks.hot_path import ours
    from benchmarks.requests import FORTY_ATTRIBUTES

    return ours(folder, "unsampled", FORTY_ATTRIBUTES, url, ParentBased(ALWAYS_OFF))


def _record(folder: Path, _: str) -> Variant:
    from benchmarks.hot_path import record_variant
    from benchmarks.requests import DISAGGREGATED

    return record_variant(folder, "written", DISAGGREGATED)


def _metrics(folder: Path, _: str) -> Variant:
    from benchmarks.hot_path import metrics_variant

    return metrics_variant(folder)


def _encoder(folder: Path, _: str) -> Variant:
    from benchmarks.otlp import encoders
    from benchmarks.requests import DISAGGREGATED

    return encoders(folder, DISAGGREGATED)[-1]


def _reader(_folder: Path, _url: str) -> Variant:
    from benchmarks.answers import reader

    return reader()


FIGURES: Mapping[str, Figure] = {
    "sampled request, on its path": Figure(_sampled),
    "sampled request, all threads, exported": Figure(_sampled, everything=True),
    "unsampled request, on its path": Figure(_unsampled),
    "record, encoded and written": Figure(_record, everything=True),
    "metrics of a request": Figure(_metrics),
    "span as OTLP, from its record": Figure(_encoder, items=64),
    "event of a stream, read": Figure(_reader, items=1_000),
}


def _opened(folder: Path, url: str) -> tuple[dict[str, Variant], dict[str, str]]:
    variants: dict[str, Variant] = {}
    missing: dict[str, str] = {}
    for number, (name, figure) in enumerate(FIGURES.items()):
        own = folder / str(number)
        own.mkdir()
        try:
            variants[name] = figure.open(own, url)
        except Exception as error:  # the commit is not as this module expects it
            missing[name] = f"{type(error).__name__}: {error}"
    return variants, missing


def main() -> None:
    """Measure what is asked for, until the end of the input."""
    with tempfile.TemporaryDirectory() as folder:
        variants, missing = _opened(Path(folder), sys.argv[1])
        print(json.dumps(missing), flush=True)
        gc.disable()
        for line in sys.stdin:
            name = line.strip()
            variant, figure = variants[name], FIGURES[name]
            gc.collect()
            variant.round(0, max(1, REQUESTS // figure.items))
            timed = variant.timed
            rounds = timed.all_us if figure.everything else timed.path_us
            print(rounds[-1] / figure.items, flush=True)


if __name__ == "__main__":
    main()
