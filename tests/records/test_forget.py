"""The page's function that deletes the records of one tenant does so, and nothing else."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from otel_lifecycle import (
    PersistenceConfig,
    RequestLifecycleTracker,
    RequestStart,
    TrackerConfig,
    read_records,
)
from otel_lifecycle.records import Follower
from tests.routes import aggregated
from tests.waiting import eventually

PAGE = Path(__file__).parents[2] / "docs" / "record-file.md"


def forget_function() -> Callable[..., int]:
    """The function on the page."""
    _, _, section = PAGE.read_text("utf-8").partition("## Deleting the records of one tenant")
    code = re.search(r"```python\n(.*?)```", section, re.DOTALL)
    assert code is not None
    names: dict[str, Any] = {}
    exec(code[1], names)
    return names["forget"]


@pytest.mark.parametrize("compression", ["none", "gzip"])
def test_forget(tmp_path: Path, compression: Any) -> None:
    """A tenant's records are gone from closed segments; others and readers' positions stay."""
    live = tmp_path / "records.jsonl"
    config = TrackerConfig(
        store_name=str(live),
        persistence=PersistenceConfig(
            enabled=True, output_path=str(live), rotate_bytes=8_000, compression=compression
        ),
    )
    tracker = RequestLifecycleTracker(config)
    follower = Follower(live)

    def serve(first: int, last: int) -> None:
        for number in range(first, last):
            labels = {"tenant": "acme" if number % 3 == 0 else "other"}
            request = RequestStart(f"request-{number}", aggregated(), "m", labels=labels)
            tracker.track(request).complete()
            assert tracker.flush(timeout=30)

    def segments() -> list[Path]:
        return sorted(tmp_path.glob("records.2*"))

    def in_live() -> set[str]:
        return set(re.findall(r'"requestId":"([a-z0-9-]+)"', live.read_text("utf-8")))

    def forget(tenant: str) -> int:
        done = {"gzip": ".gz", "none": ".jsonl"}[compression]
        eventually(lambda: all(path.suffix == done for path in segments()))
        return forget_function()(live, "tenant", tenant)

    serve(0, 20)
    before = [record.request_id for record in read_records(live)]
    seen = follower.poll()
    unclosed = in_live()
    forgotten = [
        request_id
        for request_id in before
        if int(request_id.rpartition("-")[2]) % 3 == 0 and request_id not in unclosed
    ]
    assert len(segments()) >= 2

    assert forget("acme") == len(forgotten) > 0

    left = [request_id for request_id in before if request_id not in forgotten]
    assert [record.request_id for record in read_records(live)] == left
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o600}
    follower = Follower(live, position=seen.position)
    assert follower.poll().records == []
    serve(20, 22)
    batch = follower.poll()
    assert [one.record.request_id for one in batch.records] == ["request-20", "request-21"]
    assert batch.problems == []

    tracker.close()
    forget("acme")
    ids = [int(record.request_id.rpartition("-")[2]) for record in read_records(live)]
    assert ids == [number for number in range(22) if number % 3]

    forget("other")
    assert list(read_records(live)) == []
    tracker = RequestLifecycleTracker(config)
    serve(30, 31)
    tracker.close()
    assert [record.request_id for record in read_records(live)] == ["request-30"]
