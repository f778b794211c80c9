"""What the live view reads: record files as they grow, and metrics pages."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from otel_lifecycle import LifecycleRecord
from otel_lifecycle.analysis.live import RecordSource
from otel_lifecycle.analysis.live.gauges import Gauges, State
from otel_lifecycle.analysis.live.metrics import MetricsReader, read_states
from otel_lifecycle.analysis.live.recent import recent_position
from otel_lifecycle.model.timestamps import format_timestamp
from otel_lifecycle.records import Follower
from tests.cli.records import START_NS, aggregated, record, write
from tests.state.servers import Site
from tests.waiting import eventually

SECOND_NS = 1_000_000_000

PAGE = b"""\
# TYPE llm_router_inflight_requests gauge
llm_router_inflight_requests{llm_router_endpoint_id="pod://llm/a"} 3
llm_router_inflight_tokens{llm_router_endpoint_id="pod://llm/a"} 4096
llm_router_endpoint_request_waiting{llm_router_endpoint_id="pod://llm/a"} 2
llm_router_endpoint_kv_cache_utilization_ratio{llm_router_endpoint_id="pod://llm/a"} 0.25
llm_router_npu_core_utilization_ratio{llm_router_endpoint_id="pod://llm/a",id="0"} 0.5
llm_router_npu_core_utilization_ratio{llm_router_endpoint_id="pod://llm/a",id="1"} 0.7
llm_router_endpoint_request_running{llm_router_endpoint_id="pod://llm/b#rank-1"} NaN
{"llm_router.inflight.requests","llm_router.endpoint.id"="addr://h:1"} 1
other_metric 7
"""


def no_gauges() -> None:
    """There are no metrics."""


def now(request_id: str) -> LifecycleRecord:
    """A request that ends now."""
    at_ms = (time.time_ns() - START_NS) // 1_000_000
    return record(request_id, aggregated("pod"), at_ms - 1, e2e_ms=1)


def append(path: Path, *records: LifecycleRecord) -> None:
    """Add records to a file."""
    with path.open("ab") as file:
        file.write(b"".join(msgspec.json.encode(one) + b"\n" for one in records))


def shown(source: RecordSource) -> set[str]:
    """The requests that are shown, of those written so far."""
    source.read_all()
    return {one.request_id for one in source.snapshot().requests["last"]}


def test_files_as_they_change(tmp_path: Path) -> None:
    """Each record is read once: of growing, rotated, new and vanished files, and a late folder."""
    folder = tmp_path / "records"
    folder.mkdir()
    live = folder / "a.jsonl"
    with RecordSource([folder], 60.0, no_gauges) as source:
        assert shown(source) == set()
        append(live, now("1"))
        assert shown(source) == {"1"}
        append(live, now("2"))
        live.rename(folder / "a.20261125T025428.123Z.000001.jsonl")
        append(live, now("3"))
        append(folder / "b.jsonl", now("4"))
        assert shown(source) == {"1", "2", "3", "4"}
        shutil.rmtree(folder)
        shown(source)
        assert source.snapshot().problems[-1] == f"{folder} is no longer there: waiting for it"
        folder.mkdir()
        append(folder / "c.jsonl", now("5"))
        assert shown(source) == {"1", "2", "3", "4", "5"}
        assert source.snapshot().tally.counts["requests"] == 5


def test_invalid_lines(tmp_path: Path) -> None:
    """Lines that are not records are counted, and the others are shown."""
    path = write(tmp_path / "records.jsonl", now("1"))
    path.write_bytes(b"[]\n" + path.read_bytes() + b"{}\n{")
    with RecordSource([path], 60.0, no_gauges) as source:
        assert (shown(source), source.snapshot().problems) == ({"1"}, ["2 invalid lines left out"])


def test_old_records_are_not_read(tmp_path: Path) -> None:
    """Reading begins shortly before the window, in a closed segment or in the middle of a file."""
    path = tmp_path / "records.jsonl"
    write(tmp_path / "records.20200101T000000.000Z.000001.jsonl", now("old"))
    ends = [START_NS + number * SECOND_NS for number in range(3_000)]
    padding = "x" * 1_000
    path.write_bytes(
        b"".join(
            b'{"startedAt":"%s","requestId":"%d %s"}\n'
            % (format_timestamp(end).encode(), number, padding.encode())
            for number, end in enumerate(ends)
        )
    )
    position = recent_position([tmp_path], 60 * SECOND_NS, time.time_ns())
    with Follower(tmp_path, position=position) as follower:
        lines = sum(1 for _ in follower.read())

    assert 60 <= lines < 600
    with RecordSource([tmp_path], 60.0, no_gauges) as source:
        source.read_all()
        assert source.snapshot().problems == [f"{lines} invalid lines left out"]


def test_metrics_of_routers() -> None:
    """Loads of several routers are added; engines and devices are the same for all; NaN is none."""
    assert read_states([PAGE, PAGE]) == {
        "llm/a": State(requests=6, tokens=8192, waiting=2, kv_cache=0.25, busy=0.6),
        "h:1": State(requests=2),
    }


@pytest.fixture
def site() -> Iterator[Site]:
    """A web server."""
    site = Site()
    yield site
    site.stop()


def test_metrics_pages(site: Site) -> None:
    """A page is read again and again; one that fails is named without its secrets."""
    site.answers["/metrics"] = PAGE
    urls = [f"{site.url}/metrics", f"{site.url}/missing?token=secret"]
    with MetricsReader(urls, 0.05) as reader:
        gauges = reader.gauges()

        assert gauges == Gauges(read_states([PAGE]), [f"{site.url}/missing?***: HTTP 404"])
        site.answers["/metrics"] = PAGE.replace(b"} 3", b"} 5")
        eventually(lambda: (g := reader.gauges()) and g.endpoints["llm/a"].requests == 5)


@pytest.mark.parametrize("url", ["", "host:9464", "ftp://u:secret@host/", "http://", "http://h:x"])
def test_invalid_urls(url: str) -> None:
    """A URL that cannot be read is refused, without its password."""
    with pytest.raises(ValueError, match="not a URL such as http://localhost:9464/") as error:
        MetricsReader([url], 1.0)
    assert "secret" not in str(error.value)
