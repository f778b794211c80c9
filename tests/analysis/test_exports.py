"""`otel-lifecycle export`: each format, read by the tool it is for."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import polars as pl
import pytest
from opentelemetry.sdk.trace.sampling import ALWAYS_ON

from examples.demo.workload import read_trace
from otel_lifecycle.analysis.tables import read_table
from otel_lifecycle.cli import main
from otel_lifecycle.model.features import PredictionInput
from otel_lifecycle.model.request import Outcome
from otel_lifecycle.prediction import training_entries
from tests.cli.records import aggregated, disaggregated, record, write
from tests.conftest import Bench
from tests.routes import start

PAIR = disaggregated("prefill-0", "decode-0")
RECORDS = [
    record(
        "pair",
        PAIR,
        0,
        ttft_ms=100,
        e2e_ms=500,
        tpot_ms=10.0,
        model="qwen/<b>",
        input_token_length=1_000,
        output_length=41,
    ),
    record(
        "solo",
        aggregated("solo-0"),
        200,
        ttft_ms=200,
        e2e_ms=800,
        model="qwen/<b>",
        input_token_length=512,
        output_length=7,
    ),
    record("cut", aggregated("solo-0"), 300, e2e_ms=1, outcome=Outcome.CLIENT_DISCONNECT),
]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A record file."""
    return write(tmp_path / "records.jsonl", *RECORDS)


def export(path: Path, kind: str, output: Path, *more: str) -> int:
    """Run the command."""
    return main(["export", str(path), "--format", kind, "-o", str(output), *more])


def test_parquet(path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Both tables are written by day and model; other tools and ours read them."""
    folder = tmp_path / "table"

    assert export(path, "parquet", folder) == 0
    assert capsys.readouterr().out == f"{folder}: 3 requests\n"
    assert sorted(str(each.parent.relative_to(folder)) for each in folder.rglob("*.parquet")) == [
        "endpoints/day=2026-09-21/model_name=",
        "endpoints/day=2026-09-21/model_name=qwen%2F%3Cb%3E",
        "requests/day=2026-09-21/model_name=",
        "requests/day=2026-09-21/model_name=qwen%2F%3Cb%3E",
    ]
    frame = pl.read_parquet(folder / "requests" / "**" / "*.parquet")
    assert sorted(frame["request_id"]) == ["cut", "pair", "solo"]
    for rows in ("requests", "endpoints"):
        written, original = (
            sorted(map(repr, read_table(each, rows=rows).to_pylist())) for each in (folder, path)
        )
        assert written == original


def test_parquet_again(path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each run adds the new records; a run that was killed is repeated."""
    folder = tmp_path / "table"
    export(path, "parquet", folder)
    begun = (folder / "position.json").read_bytes()
    with path.open("ab") as file:
        file.write(msgspec.json.encode(record("new", PAIR, 400, e2e_ms=1)) + b"\n")

    assert export(path, "parquet", folder) == 0
    (folder / "position.json").write_bytes(begun)  # killed before this was replaced
    assert export(path, "parquet", folder) == 0
    assert export(path, "parquet", folder) == 0
    assert [line.rpartition(": ")[2] for line in capsys.readouterr().out.splitlines()] == [
        "3 requests",
        "1 request",
        "1 request",
        "0 requests",
    ]
    found = read_table(folder)["request_id"].to_pylist()
    assert sorted(map(str, found)) == ["cut", "new", "pair", "solo"]
    assert not list(folder.rglob(".*"))


def test_csv(path: Path, tmp_path: Path) -> None:
    """Each row is one line, under the names of the columns."""
    output = tmp_path / "out.csv"

    assert export(path, "csv", output, "--rows", "endpoints") == 0
    with output.open(newline="") as file:
        found = [(row["request_id"], row["role"], row["id"]) for row in csv.DictReader(file)]
    assert sorted(found) == [
        ("cut", "leader", "pod://llm/solo-0"),
        ("pair", "decode", "pod://llm/decode-0"),
        ("pair", "prefill", "pod://llm/prefill-0"),
        ("solo", "leader", "pod://llm/solo-0"),
    ]


def test_mooncake(path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The demo replays the trace: arrivals and lengths."""
    output = tmp_path / "trace.jsonl"

    assert export(path, "mooncake", output) == 0
    assert [json.loads(line) for line in output.read_text().splitlines()] == [
        {"timestamp": 0, "input_length": 1_000, "output_length": 41, "hash_ids": [0, 1]},
        {"timestamp": 200, "input_length": 512, "output_length": 7, "hash_ids": [2]},
    ]
    assert [each.at for each in read_trace(output, 10)] == [0, 0.2]
    assert capsys.readouterr().err == (
        "otel-lifecycle: 1 request omitted: input or output length is unknown\n"
        "otel-lifecycle: 2 requests without promptBlocks: these share no blocks, so a replay has "
        "fewer prefix-cache hits\n"
    )


PROMPTS = [(1, 1_100), (1, 2_048), (2, 700), (1, 3_000), (2, 700)]


@pytest.mark.parametrize(("block_size", "most"), [(16, 256), (512, 256), (1024, 256), (512, 1)])
def test_mooncake_keeps_what_prompts_share(tmp_path: Path, block_size: int, most: int) -> None:
    """A trace has the arrivals, and the common beginnings that the recorded blocks show."""
    records, output = tmp_path / "records.jsonl", tmp_path / "trace.jsonl"
    bench = Bench(records, ALWAYS_ON, prompt={"blocks": block_size, "max_blocks": most})
    for number, (family, length) in enumerate(PROMPTS):
        prompt = [family * 7] * min(length, 1_024) + [number] * max(0, length - 1_024)
        request = msgspec.structs.replace(
            start(f"request-{number}"), input_tokens=length, prompt=prompt
        )
        tracked = bench.tracker.track(request)
        bench.clock.advance(250.0)
        tracked.complete(output_tokens=2)
    assert bench.tracker.flush(timeout=30)
    bench.close()

    assert export(records, "mooncake", output) == 0

    trace = read_trace(output, None)
    assert [each.at for each in trace] == [0.0, 0.25, 0.5, 0.75, 1.0]
    ids = [each.prompt.block_ids for each in trace]  # pyright: ignore[reportAttributeAccessIssue]
    shared = [
        [sum(left == right for left, right in zip(one, other, strict=False)) for other in ids]
        for one in ids
    ]
    whole = 1 if most == 1 else 2
    assert shared[0] == [3, whole, 0, whole, 0]
    assert shared[1] == [whole, 4, 0, whole, 0]
    assert shared[2][4] == whole


def test_perfetto(path: Path, tmp_path: Path) -> None:
    """Each endpoint is a process, with the requests on it and its load."""
    output = tmp_path / "trace.json"

    assert export(path, "perfetto", output) == 0
    events: list[dict[str, Any]] = json.loads(output.read_text())["traceEvents"]
    names = {each["pid"]: each["args"]["name"] for each in events if each["ph"] == "M"}
    start = min(each["ts"] for each in events if "ts" in each)
    slices: dict[tuple[str, str], list[tuple[str, int]]] = {}
    for each in events:
        if each["ph"] in "bne":
            key = (each["name"], names[each["pid"]])
            slices.setdefault(key, []).append((each["ph"], (each["ts"] - start) // 1000))
    assert slices == {
        ("pair", "pod://llm/prefill-0"): [("b", 0), ("e", 100)],
        ("pair", "pod://llm/decode-0"): [("b", 100), ("e", 500)],
        ("solo", "pod://llm/solo-0"): [("b", 200), ("n", 400), ("e", 1000)],
        ("cut", "pod://llm/solo-0"): [("b", 300), ("e", 301)],
    }
    loads = [
        ((each["ts"] - start) // 1000, each["args"])
        for each in events
        if each["ph"] == "C" and names[each["pid"]] == "pod://llm/solo-0"
    ]
    assert loads == [
        (200, {"requests": 1}),
        (200, {"tokens": 512}),
        (300, {"requests": 2}),
        (300, {"tokens": 512}),
        (301, {"requests": 1}),
        (301, {"tokens": 512}),
        (1000, {"requests": 0}),
        (1000, {"tokens": 0}),
    ]


SEGMENT = "records.20260921T141320.000Z.000001.jsonl"
INPUTS = {
    "input_token_length": 1_000,
    "prefix_cache_score": 0.5,
    "num_request_waiting": 2,
    "num_request_running": 3,
    "kv_cache_usage": 0.25,
    "inflight_tokens": 700,
}


def test_llm_d(tmp_path: Path) -> None:
    """The rows are those that shadow prediction sends for the same records."""
    records = [
        record(
            name,
            PAIR,
            at_ms,
            ttft_ms=100,
            e2e_ms=500,
            tpot_ms=10.0,
            output_length=41,
            prediction_inputs=[
                PredictionInput(pod_type="prefill", **INPUTS),
                PredictionInput(pod_type="decode", **{**INPUTS, "kv_cache_usage": usage}),
            ],
            **more,
        )
        for name, at_ms, usage, more in [
            ("whole", 0, 0.75, {}),
            ("decode unknown", 100, None, {}),
            ("failed", 200, 0.75, {"outcome": Outcome.ERROR}),
        ]
    ]
    output = tmp_path / "rows.jsonl"

    assert export(write(tmp_path / "records.jsonl", *records), "llm-d", output) == 0
    found = [json.loads(line) for line in output.read_text().splitlines()]
    expected = [entry for each in records for entry in training_entries(each)]
    for entry in (*found, *expected):
        entry["timestamp"] = entry["timestamp"][:26]  # microseconds
    assert found == expected
    assert len(found) == 3


@pytest.mark.parametrize(
    ("output", "more", "reason"),
    [
        ("missing/out", [], "--output {output}: "),
        ("out", ["--where", "oh("], "'oh(': "),
        ("out", ["--since", "soon"], "--since soon: must be a duration such as 30m or a time "),
    ],
)
@pytest.mark.parametrize("kind", ["csv", "perfetto", "mooncake", "llm-d"])
def test_bad_usage(
    path: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    kind: str,
    output: str,
    more: list[str],
    reason: str,
) -> None:
    """One line has the problem, and nothing is written."""
    before = sorted(tmp_path.rglob("*"))

    assert export(path, kind, tmp_path / output, *more) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"otel-lifecycle: {reason.format(output=tmp_path / output)}")
    assert error.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("command", [["report"], ["export", "--format", "csv"]])
@pytest.mark.parametrize(
    ("output", "reason"),
    [
        ("records.jsonl", "--output {output}: the records are read from it"),
        (
            "records.20260921T141320.000Z.000001.jsonl",
            "--output {output}: the records are read from it",
        ),
        ("pipe", "--output {output}: exists, and is not a file or folder"),
        ("", "--output: must be the name of a file or folder, got ''"),
    ],
)
def test_output_that_must_stay(
    path: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    command: list[str],
    output: str,
    reason: str,
) -> None:
    """Neither records nor a pipe, nor so a device, are replaced by what is written."""
    path.with_name(SEGMENT).write_bytes(path.read_bytes())
    os.mkfifo(tmp_path / "pipe")
    before = {each: each.lstat() for each in tmp_path.iterdir()}
    target = str(tmp_path / output) if output else ""

    assert main([*command, str(path), "-o", target]) == 2
    assert capsys.readouterr().err == f"otel-lifecycle: {reason.format(output=target)}\n"
    assert {each: each.lstat() for each in tmp_path.iterdir()} == before


def test_parquet_into_its_source(
    path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A folder that records are read from does not become a folder of tables."""
    assert export(tmp_path, "parquet", tmp_path) == 2
    assert capsys.readouterr().err == (
        f"otel-lifecycle: --output {tmp_path}: the records are read from it\n"
    )
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_full_temporary_folder(
    path: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
) -> None:
    """A temporary folder that cannot be used is named, and not the output."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "missing"))

    assert export(path, kind, tmp_path / "out") == 2
    assert capsys.readouterr().err.startswith(
        f"otel-lifecycle: temporary folder {tmp_path / 'missing'}: "
    )


@pytest.mark.parametrize("kind", ["parquet", "perfetto", "llm-d"])
def test_repeated_id(tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str) -> None:
    """Requests of one id do not take the endpoints of each other."""
    again = [
        record(
            "again",
            aggregated(f"solo-{number}"),
            number,
            ttft_ms=10,
            e2e_ms=50,
            tpot_ms=5.0,
            output_length=9,
            prediction_inputs=[PredictionInput(pod_type="", **INPUTS)],
        )
        for number in range(3)
    ]
    path = write(tmp_path / "records.jsonl", *again)
    output = tmp_path / "out"

    assert export(path, kind, output) == 0
    told = capsys.readouterr().out.rpartition(": ")[2]
    if kind == "parquet":
        assert told == "3 requests\n"
        assert read_table(output, rows="endpoints").num_rows == 3
    elif kind == "perfetto":
        assert told == "3 requests\n"
        events = json.loads(output.read_text())["traceEvents"]
        assert sum(event["ph"] == "b" for event in events) == 3
    else:
        found = [json.loads(line) for line in output.read_text().splitlines()]
        assert len(found) == sum(len(training_entries(each)) for each in again) > 0


@pytest.mark.parametrize(
    "arguments",
    [
        ["report"],
        *(["export", "--format", kind] for kind in ("parquet", "csv", "perfetto", "mooncake")),
    ],
    ids=lambda arguments: arguments[-1],
)
def test_without_other_extras(path: Path, tmp_path: Path, arguments: list[str]) -> None:
    """The extra `report` is enough."""
    code = (
        "import sys; sys.modules |= dict.fromkeys(('aiohttp', 'httpx', 'pandas', 'pyarrow')); "
        "from otel_lifecycle.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, *arguments, str(path), "-o", str(tmp_path / "out")],
        capture_output=True,
        text=True,
        check=False,
    )

    assert (result.returncode, result.stdout) == (0, result.stdout), result.stderr
    assert (tmp_path / "out").exists()


def test_since(path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Only requests dispatched since a time, or within a duration until now, are written."""
    for since in ("2026-09-21T14:13:20.200Z", "2026-09-21T14:13:20.300", "1s", "2026-09-22"):
        export(path, "csv", tmp_path / "out.csv", "--since", since)

    told = capsys.readouterr().out.splitlines()
    assert [line.rpartition(": ")[2] for line in told] == ["2 rows", "1 row", "0 rows", "0 rows"]


def test_bad_lines(path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Invalid lines are counted, the first is named, and the rest is written."""
    path.write_bytes(b"oh\n" + path.read_bytes() + b"oh\n")

    assert export(path, "csv", tmp_path / "out.csv") == 1
    told = capsys.readouterr()
    assert told.out == f"{tmp_path / 'out.csv'}: 3 rows\n"
    assert told.err.startswith(f"otel-lifecycle: 2 problems skipped, the first: {path}:1: ")


def test_position_of_something_else(
    path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A folder whose position cannot be read is left unchanged."""
    folder = tmp_path / "table"
    folder.mkdir()
    (folder / "position.json").write_text("oh")

    assert export(path, "parquet", folder) == 2
    assert capsys.readouterr().err.startswith(f"otel-lifecycle: {folder / 'position.json'}: ")
    assert [each.name for each in folder.iterdir()] == ["position.json"]
