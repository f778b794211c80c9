"""Reading an exposition: exactly what the formats allow; never an invented number."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families as text_format

from otel_lifecycle.state import engines
from otel_lifecycle.state.accelerators import amd, dcgm, npu_exporter
from otel_lifecycle.state.exposition import Sample, SampleReader

TESTS = Path(__file__).parent
FIXTURES = sorted(TESTS.glob("*/fixtures/*"))
READS: list[Callable[[bytes, float], Any]] = [
    npu_exporter.read,
    dcgm.read,
    amd.read,
    engines.read,
]
READER = SampleReader(["up", "up_total", "vllm:num_requests_running"])


def read(text: str) -> list[Sample]:
    """Return the samples of an exposition."""
    return list(READER.read(text.encode()))


@pytest.mark.parametrize(
    ("line", "sample"),
    [
        ("up 1", Sample("up", {}, 1.0, None)),
        ("up\t1", Sample("up", {}, 1.0, None)),
        ("up{} 1", Sample("up", {}, 1.0, None)),
        ("up {} 1", Sample("up", {}, 1.0, None)),
        ("up 1 ", Sample("up", {}, 1.0, None)),
        ("up_total 1", Sample("up_total", {}, 1.0, None)),
        ("vllm:num_requests_running 1", Sample("vllm:num_requests_running", {}, 1.0, None)),
        ("up -1.5e3", Sample("up", {}, -1500.0, None)),
        ("up +.5", Sample("up", {}, 0.5, None)),
        ("up 5.", Sample("up", {}, 5.0, None)),
        ("up +Inf", Sample("up", {}, math.inf, None)),
        ("up -Inf", Sample("up", {}, -math.inf, None)),
        ("up 1 1755859200123", Sample("up", {}, 1.0, 1755859200.123)),
        ("up 1 -1000", Sample("up", {}, 1.0, -1.0)),
        ('up{a="b"} 1', Sample("up", {"a": "b"}, 1.0, None)),
        ('up{a="b",} 1', Sample("up", {"a": "b"}, 1.0, None)),
        ('up{a="b",c="d"}1', Sample("up", {"a": "b", "c": "d"}, 1.0, None)),
        ('up{ a = "b" , c = "d" } 1', Sample("up", {"a": "b", "c": "d"}, 1.0, None)),
        ('up{a="{},=\'#"} 1', Sample("up", {"a": "{},='#"}, 1.0, None)),
        (r'up{a="\\\"\n"} 1', Sample("up", {"a": '\\"\n'}, 1.0, None)),
        ('up{a="昇腾"} 1', Sample("up", {"a": "昇腾"}, 1.0, None)),
        ("  \t up 1", Sample("up", {}, 1.0, None)),
        ('up{"a.b"="c"} 1', Sample("up", {"a.b": "c"}, 1.0, None)),
        (r'up{"a\"b"="c"} 1', Sample("up", {'a"b': "c"}, 1.0, None)),
        ('{"up"} 1', Sample("up", {}, 1.0, None)),
        ('{ "up" , a="b", "c"="d" } 1', Sample("up", {"a": "b", "c": "d"}, 1.0, None)),
        (
            "up{" + ",".join(f'l{n}="{n}"' for n in range(1_000)) + "} 1",
            Sample("up", {f"l{n}": str(n) for n in range(1_000)}, 1.0, None),
        ),
    ],
)
def test_samples(line: str, sample: Sample) -> None:
    """Everything that the text format allows is read."""
    assert read(f"{line}\n") == [sample]


def test_order_of_quoted_names() -> None:
    """Quoted and plain names are read in the order of the exposition."""
    text = '{"up",a="1"} 1\nup{a="2"} 2\n{"up",a="3"} 3\n'

    assert [sample.value for sample in read(text)] == [1.0, 2.0, 3.0]


def test_byte_order_mark() -> None:
    """A byte order mark is not part of the first line."""
    assert read("\ufeffup 1\n") == [Sample("up", {}, 1.0, None)]


def test_not_a_number() -> None:
    """NaN is a value; MindIE writes it as `Nan`."""
    values = [sample.value for sample in read("up NaN\nup Nan\nup nan\n")]

    assert [math.isnan(value) for value in values] == [True] * 3


@pytest.mark.parametrize(
    "line",
    [
        "up", "up ", "up{", "up{}", "up x", "up 1x", "up 1 2 3", "up 1,5", "up 0x10", "up 1_000",
        "up \u0661", "up 1e", "up --1", "up 1 x", "up 1 1_0", 'up{a="b" 1', 'up{a="b"c="d"} 1',
        "up{a=b} 1", 'up{a="b} 1', r'up{a="\x"} 1', 'up{1="b"} 1', 'up{a="b"}} 1',
        "up{a='b'} 1", "# up 1", "upper 1", "xup 1", "up:x 1", "up_totals 1", "up ERROR 1",
        "up 1 " + "9" * 400,
    ],
)  # fmt: skip
def test_malformed_lines(line: str) -> None:
    """Malformed lines are skipped, and their neighbours are read."""
    neighbour = Sample("up_total", {}, 7.0, None)

    assert read(f"up_total 7\n{line}\nup_total 7\n") == [neighbour, neighbour]


def test_cut_off() -> None:
    """The last line of a truncated body is skipped: its number may be incomplete."""
    text = 'up{a="b"} 123456 1755859200123\n'

    assert [len(read(text[:end])) for end in range(len(text))] == [0] * len(text)
    assert len(read(text)) == 1


def test_openmetrics_timestamps() -> None:
    """OpenMetrics timestamps are seconds, and exemplars are skipped."""
    text = 'up 1 1755859200.123\nup_total{a="b"} 5 # {trace_id="up 9"} 0.7 1755859199\n# EOF\n'

    assert read(text) == [
        Sample("up", {}, 1.0, 1755859200.123),
        Sample("up_total", {"a": "b"}, 5.0, None),
    ]


@pytest.mark.parametrize("path", FIXTURES, ids=lambda path: path.stem)
def test_like_prometheus_client(path: Path) -> None:
    """All samples of all fixtures are read as `prometheus_client` reads them."""
    text = path.read_text("utf-8").replace("ERROR - FAILED TO CONVERT TO STRING", "NaN")
    # Without types, for which it adds `_total` to the names of counters.
    bare = "".join(line for line in text.splitlines(keepends=True) if not line.startswith("# TYPE"))
    theirs = [sample[:4] for family in text_format(bare) for sample in family.samples]
    ours = SampleReader({name for name, *_ in theirs}).read(text.encode())

    assert sorted(map(comparable, ours)) == sorted(comparable(sample) for sample in theirs)


def comparable(sample: tuple[Any, ...]) -> str:
    """Return a sample for which NaN equals NaN, and an integer the same float."""
    name, labels, value, timestamp = sample
    return repr((name, sorted(labels.items()), float(value), timestamp and float(timestamp)))


def test_openmetrics_like_prometheus_client() -> None:
    """The same for OpenMetrics."""
    text = (
        "# TYPE up gauge\n# UNIT up \nup 1.0 1755859200.5\n"
        '# TYPE jobs counter\njobs_total{a="x\\"y\\n"} 5.0 # {trace_id="7f"} 1.0 1755859200.0\n'
        "# EOF\n"
    )
    theirs = [sample for family in openmetrics(text) for sample in family.samples]
    ours = list(SampleReader(["up", "jobs_total"]).read(text.encode()))

    assert [sample[:3] for sample in ours] == [(s.name, s.labels, s.value) for s in theirs]
    assert [sample.observed_at for sample in ours] == [1755859200.5, None]


names = st.sampled_from(["up", "up_total", "upper", "npu_chip_info_utilization"])
soup = st.text(st.sampled_from('up_total{}="\\,# \n\t1.9eE+-NaInf昇\x00\r'), max_size=60)
lines = st.builds(lambda name, rest: name + rest, names, soup) | soup


@given(st.lists(lines, max_size=6).map("\n".join))
def test_any_text(text: str) -> None:
    """Each line is read independently, and a sample is what its line says."""
    whole = read(text)
    complete = text.split("\n")[:-1]

    assert repr(whole) == repr([sample for line in complete for sample in read(line + "\n")])
    for sample in whole:
        assert any(
            line.startswith(sample.name) and _number_in(sample.value, line) for line in complete
        )


def _number_in(value: float, line: str) -> bool:
    for word in line.replace("}", " ").split():
        try:
            number = float(word)
        except ValueError:
            continue
        if number == value or (math.isnan(number) and math.isnan(value)):
            return True
    return False


@given(st.binary(max_size=200))
def test_any_bytes(body: bytes) -> None:
    """No body makes a reader raise."""
    for read_any in READS:
        assert not read_any(body, 0.0)


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A real exposition, truncated, doubled, shuffled or with strange bytes."""
    body = draw(st.sampled_from(SMALL))
    for _ in range(draw(st.integers(1, 6))):
        at, to = sorted(draw(st.tuples(*[st.integers(0, len(body))] * 2)))
        piece = draw(
            st.sampled_from([b"", b"\n", b'"', b"}", b"{", b"-", b"e9", b"NaN", b"\xff", b" 1\n"])
            | st.just(body[at:to])
            | st.binary(max_size=3)
        )
        to = min(to, at + draw(st.integers(0, 40)))
        body = body[:at] + piece + body[to:]
    return body


SMALL = [path.read_bytes() for path in FIXTURES if path.stat().st_size < 15_000]


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(damaged())
def test_damaged_expositions(body: bytes) -> None:
    """A damaged exposition gives values in range or nothing, never an exception."""
    for read_devices in (npu_exporter.read, dcgm.read, amd.read):
        for reading in read_devices(body, 1.0):
            for group in ("core", "memory", "memory_bandwidth"):
                value = getattr(reading, f"{group}_utilization")
                seen = getattr(reading, f"{group}_observed_at") is not None
                assert value is None or (seen and 0.0 <= value <= 100.0)
                assert (group in reading.invalid) == (seen and value is None)
    for metrics in engines.read(body, 1.0).values():
        for part in (metrics.kv_cache_usage, metrics.prefix_cache_hit_rate):
            assert part is None or 0.0 <= part <= 1.0
        for count in (metrics.running_requests, metrics.waiting_requests):
            assert count is None or count >= 0


@pytest.mark.parametrize(
    "line",
    [
        "up" + " " * 100_000 + "x",
        "up 1" + " " * 100_000 + "x",
        "up " + "1" * 100_000 + "x",
        "up 1 " + "9" * 100_000 + "x",
        "up{" + " " * 100_000 + "x",
        "up{a" + " " * 100_000 + "x",
        'up{a="' + "\\\\" * 100_000,
        "up{" + 'a="",' * 100_000,
        "up\n" * 100_000,
    ],
)
def test_long_lines(line: str) -> None:
    """Long lines take linear time; otherwise these would take hours."""
    assert read(f"{line}\n") == []
