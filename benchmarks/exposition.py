"""Compares reading an engine's or exporter's metrics with a full parse by prometheus_client.

Run with `make bench`. Four ways to read the same body take turns in one process, without garbage
collection; figures are medians of the CPU time of many rounds. Every sample is parsed by
`prometheus_client`; only the needed lines are parsed by `prometheus_client`; the needed samples are
read by `otel_lifecycle.state.exposition`; and they are converted to `EndpointMetrics` or readings.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from benchmarks.timing import Variant, interleave
from otel_lifecycle.state import engines
from otel_lifecycle.state.accelerators import npu_exporter
from otel_lifecycle.state.engines import vllm
from otel_lifecycle.state.exposition import SampleReader

ROUNDS = 20
ENGINES = 400
INTERVAL_SECONDS = 5.0
FIXTURES = Path(__file__).parents[1] / "tests"


def _parse(text: str) -> int:
    return sum(len(family.samples) for family in text_string_to_metric_families(text))


def _filter_and_parse(text: str, pattern: re.Pattern[str]) -> int:
    return _parse("\n".join(pattern.findall(text)) + "\n")


def _compare(
    title: str, path: str, reader: SampleReader, read: Callable[[bytes, float], object]
) -> dict[str, float]:
    body = (FIXTURES / path).read_bytes().replace(b"ERROR - FAILED TO CONVERT TO STRING", b"NaN")
    text = body.decode()
    samples = _parse(text)
    wanted = sorted({sample.name for sample in reader.read(body)})
    pattern = re.compile(rf"^(?:{'|'.join(map(re.escape, wanted))})[{{ ].*$", re.MULTILINE)
    variants = [
        Variant("prometheus_client, all", lambda _: _parse(text)),
        Variant("filter, then prometheus_client", lambda _: _filter_and_parse(text, pattern)),
        Variant("exposition.SampleReader", lambda _: list(reader.read(body))),
        Variant("the whole way", lambda _: read(body, 0.0)),
    ]
    interleave(variants, ROUNDS, 1)
    medians = {variant.timed.name: variant.timed.path.median for variant in variants}
    print(f"\n{title}: {samples} samples, {len(list(reader.read(body)))} wanted, {len(body)} bytes")
    slowest = medians["prometheus_client, all"]
    for name, median in medians.items():
        print(
            f"  {name:<32}{median:9.0f} us {median / samples:8.2f} us a sample"
            f" {slowest / median:7.0f} x"
        )
    return medians


def main() -> None:
    """Print the table."""
    print(f"Python {sys.version.split()[0]}, CPU time, medians of {ROUNDS} rounds")
    engine = _compare(
        "vLLM, one rank", "state/engines/fixtures/vllm_0_9.prom", vllm.READER, engines.read
    )
    _compare(
        "vLLM, four ranks",
        "state/engines/fixtures/vllm_data_parallel.prom",
        vllm.READER,
        engines.read,
    )
    _compare(
        "npu-exporter, 16 chips",
        "state/accelerators/fixtures/npu_exporter_26_1.prom",
        npu_exporter.READER,
        npu_exporter.read,
    )
    print(f"\n{ENGINES} engines, scraped every {INTERVAL_SECONDS:g} s, of one core:")
    for name, median in engine.items():
        print(f"  {name:<32}{median * ENGINES / 1e6 / INTERVAL_SECONDS:9.1%}")


if __name__ == "__main__":
    main()
