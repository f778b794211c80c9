"""`otel-lifecycle import dynamo`."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from otel_lifecycle.cli import main
from otel_lifecycle.observation.dynamo import record_of_line
from otel_lifecycle.records import read_records
from otel_lifecycle.tracking.lifecycle import Lifecycle
from tests.garbage import freed_without_collector

RECEIVED_MS = 1_777_312_800_000


def line(**fields: Any) -> bytes:
    """One request as Dynamo's frontend writes it."""
    request = {
        "request_id": "dynamo-1",
        "x_request_id": "client-1",
        "model": "m",
        "input_tokens": 4096,
        "output_tokens": 11,
        "cached_tokens": 3584,
        "request_received_ms": RECEIVED_MS,
        "prefill_wait_time_ms": 12.5,
        "prefill_time_ms": 70.0,
        "ttft_ms": 82.5,
        "total_time_ms": 1012.5,
        "avg_itl_ms": 93.0,
        "kv_hit_rate": 0.875,
        "queue_depth": 3,
        "worker": {
            "prefill_worker_id": 0,
            "prefill_dp_rank": 1,
            "decode_worker_id": 7,
            "decode_dp_rank": 0,
        },
        "finish_reason_metadata": {"finish_reason": "stop"},
        **fields,
    }
    return json.dumps(
        {
            "schema": "dynamo.request.trace.v1",
            "event_type": "request_end",
            "event_time_unix_ms": RECEIVED_MS + 1013,
            "event_source": "dynamo",
            "request": request,
        }
    ).encode()


COMPACT = json.dumps(
    {
        "schema": "dynamo.request.trace.v1",
        "event_type": "request_end",
        "event_time_unix_ms": RECEIVED_MS + 1000,
        "request": {
            "request_id": "dynamo-2",
            "request_received_ms": RECEIVED_MS,
            "output_tokens": 16,
            "replay": {
                "trace_block_size": 64,
                "input_length": 128,
                "input_sequence_hashes": [14879255164371896291, 274632075616497421],
            },
        },
    }
).encode()


def test_blocks_of_prompts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Dynamo's hashes are not secret, so they are hashed with a key, if they are asked for."""
    path = tmp_path / "trace.jsonl"
    path.write_bytes(COMPACT + b"\n" + line())
    main(["import", "dynamo", str(path)])
    assert "promptBlocks" not in capsys.readouterr().out
    monkeypatch.setenv("OTEL_LIFECYCLE_PROMPT_BLOCKS", "512")
    monkeypatch.setenv("OTEL_LIFECYCLE_PROMPT_KEY", "a secret of this test")

    assert main(["import", "dynamo", str(path)]) == 0

    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    blocks = first["promptBlocks"]
    assert (blocks["unit"], blocks["blockSize"], len(blocks["hashes"])) == ("token", 64, 2)
    assert set(blocks["hashes"]).isdisjoint({14879255164371896291, 274632075616497421})
    assert "promptBlocks" not in second


def record(text: bytes) -> dict[str, Any]:
    """The record of a line, as it is written."""
    found = record_of_line(text)
    assert found is not None
    return msgspec.to_builtins(found)


def test_whole_request() -> None:
    """Latencies count from the dispatch, which is the begin of the prefill."""
    found = record(line())

    assert found["requestId"] == "client-1"
    assert found["engineRequestId"] == "dynamo-1"
    assert found["receivedAt"] == "2026-04-27T18:00:00.000000000Z"
    assert found["startedAt"] == "2026-04-27T18:00:00.012500000Z"
    assert found["firstChunkAt"] == "2026-04-27T18:00:00.082500000Z"
    assert found["completedAt"] == "2026-04-27T18:00:01.012500000Z"
    assert found["actual"] == {
        "ttftMillis": 70.0,
        "tpotMillis": 93.0,
        "e2eMillis": 1000.0,
        "prefillMillis": None,
        "queueMillis": 12.5,
    }
    assert (found["inputTokenLength"], found["outputLength"]) == (4096, 11)
    assert (found["cachedTokens"], found["prefixCacheScore"]) == (3584, 0.875)
    assert (found["outcome"], found["finishReason"]) == ("completed", "stop")
    route = found["selectedRoute"]
    assert (route["prefill"]["name"], route["decode"]["name"]) == (
        "worker-0-rank-1",
        "worker-7-rank-0",
    )
    assert found["dispatchInflight"] is None
    assert {each["inflightTokens"] for each in found["predictionInputs"]} == {None}


def test_nothing_is_left_for_the_garbage_collector() -> None:
    """A line is freed with its record, without a search for cycles."""
    with freed_without_collector(Lifecycle):
        assert record_of_line(line()) is not None


def test_compact_request() -> None:
    """What Dynamo does not tell is unknown."""
    found = record(COMPACT)

    assert (found["requestId"], found["inputTokenLength"]) == ("dynamo-2", 128)
    assert found["selectedRoute"] is found["firstChunkAt"] is found["streaming"] is None
    assert found["actual"]["queueMillis"] is found["actual"]["ttftMillis"] is None
    assert found["actual"]["e2eMillis"] == 1000.0
    assert (found["model"], found["cachedTokens"], found["traceId"]) == ("", None, None)


def test_wrapped() -> None:
    """Some sinks put the event into another object."""
    assert record(b'{"timestamp":5,"event":' + line() + b"}") == record(line())


def test_one_worker() -> None:
    """A worker that does both is a leader alone."""
    worker = {"prefill_worker_id": 3, "decode_worker_id": 3}
    route = record(line(worker=worker))["selectedRoute"]
    assert (route["leader"]["name"], "prefill" in route) == ("worker-3", False)


@pytest.mark.parametrize(
    "fields",
    [
        {"ttft_ms": -1.0, "total_time_ms": 1e300, "prefill_wait_time_ms": -5},
        {"kv_hit_rate": 7.5, "output_tokens": -3, "cached_tokens": 1 << 62},
        {"model": "m" * 5_000, "request_id": "\u202e" * 5_000},
        {"ttft_ms": 1.0},
    ],
)
def test_strange_values(fields: dict[str, Any]) -> None:
    """Values out of range are unknown, and the record is one all the same."""
    found = record_of_line(line(**fields))
    assert found is not None
    msgspec.convert(msgspec.to_builtins(found), type(found))


def test_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Plain and compressed files; bad lines are named, other events are counted."""
    plain, packed = tmp_path / "trace.jsonl", tmp_path / "trace.000001.jsonl.gz"
    tool = b'{"schema":"dynamo.request.trace.v1","event_type":"tool_end","tool":{}}'
    plain.write_bytes(b"\n".join([line(), tool, b"{", b'{"schema":"x","event_type":"y"}', COMPACT]))
    packed.write_bytes(gzip.compress(line(x_request_id="client-2") + b"\n"))
    output = tmp_path / "records.jsonl"

    assert main(["import", "dynamo", str(plain), str(packed), "--output", str(output)]) == 1
    assert [each.request_id for each in read_records(output)] == [
        "client-1",
        "dynamo-2",
        "client-2",
    ]
    error = capsys.readouterr().err.splitlines()
    assert [text.split(": ")[1] for text in error[:2]] == [f"{plain}:3", f"{plain}:4"]
    assert error[2].endswith("3 records of 2 files; left out: 2 bad lines, 1 about other events")


def test_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without a file records are printed."""
    path = tmp_path / "trace.jsonl"
    path.write_bytes(line() + b"\n")

    assert main(["import", "dynamo", str(path)]) == 0
    assert json.loads(capsys.readouterr().out)["requestId"] == "client-1"


def test_unreadable(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file that cannot be read is named, and the others are imported."""
    good, broken = tmp_path / "good.jsonl", tmp_path / "broken.gz"
    good.write_bytes(line() + b"\n")
    broken.write_bytes(gzip.compress(line() * 99)[:-20])

    arguments = [str(tmp_path / "none"), str(tmp_path), str(broken), str(good)]
    assert main(["import", "dynamo", *arguments]) == 2
    captured = capsys.readouterr()
    assert len(captured.out.splitlines()) == 1
    assert len(captured.err.splitlines()) == 4


def test_nothing_to_import(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file that is not there is one line, without a sum of nothing."""
    path = tmp_path / "none.jsonl"

    assert main(["import", "dynamo", str(path)]) == 2
    assert capsys.readouterr().err == f"otel-lifecycle: {path}: No such file or directory\n"
