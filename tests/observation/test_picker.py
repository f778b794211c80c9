"""What a real picker told of its decisions, in its log and its spans."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from otel_lifecycle.model import Endpoint
from otel_lifecycle.model.record import LifecycleRecord
from otel_lifecycle.observation.endpoints import Endpoints
from otel_lifecycle.observation.picker import held
from otel_lifecycle.observation.picker.log import PickerLog, SavedLog
from otel_lifecycle.observation.picker.picker import Picker
from otel_lifecycle.observation.picker.spans import PickerSpans, SavedTrace
from otel_lifecycle.tracking.lifecycle import Lifecycle
from tests.garbage import freed_without_collector
from tests.observation.entries import ENGINE, OBSERVED, Joined, end, moment, ready, start, whole
from tests.observation.picked import LOG, export, spans

NAMED = Endpoints(
    {
        f"127.0.0.1:{port}": Endpoint(address="127.0.0.1", port=str(port), name=name)
        for name, port in (("d0", 9101), ("d1", 9102), ("p0", 9107))
    }
)


def read(path: Path, saved: SavedLog | None = None) -> PickerLog:
    """A log that was read to its end."""
    log = PickerLog(path, saved)
    while not log.poll().caught_up:
        pass
    return log


def traced(given: Iterable[dict[str, Any]]) -> PickerSpans:
    """Spans that were received, each in an export of its own."""
    received = PickerSpans()
    for each in given:
        received.take(export([each]))
    return received


def decided(
    log: PickerLog | None, received: PickerSpans | None, **options: Any
) -> dict[str, LifecycleRecord]:
    """The records of Envoy's log with what the picker told."""
    joined = Joined(picker=Picker(log, received, 10.0), **options)
    joined.take(OBSERVED.read_bytes().splitlines())
    joined.joiner.expire(at_end=True)
    assert len(joined.records) == 16
    return {record.request_id: record for record in joined.records}


def facts(record: LifecycleRecord) -> dict[str, Any]:
    """What a picker tells of a request."""
    whole = msgspec.to_builtins(record)
    names = ("candidates", "policy", "prefixCacheScore", "prediction", "decision")
    return {name: whole.get(name) for name in names}


def candidate(port: int, score: float, prefix: float) -> dict[str, Any]:
    """A candidate as the record has it, without load in flight."""
    return {
        "id": f"addr://127.0.0.1:{port}",
        "score": score,
        "scores": {"prefix-cache-scorer": prefix, "queue-scorer": 1.0},
        "prefixCacheScore": prefix,
        "waiting": 0,
        "kvCacheUsage": 0.0,
    }


def pick(role: str, margin: float | None, *candidates: dict[str, Any]) -> dict[str, Any]:
    """A pick whose best candidate was chosen."""
    return {
        "role": role,
        "chosenRank": 1,
        "margin": margin,
        "regretMillis": None,
        "candidates": list(candidates),
    }


UNPREDICTED = {"ttftMillis": None, "tpotMillis": None}
POLICY = "2*prefix-cache-scorer+1*queue-scorer"


def test_pair() -> None:
    """Both picks of a pair with the scores of each scorer; the prefix is that of the prefill."""
    assert facts(decided(read(LOG), traced(spans()))["Z-pd1"]) == {
        "candidates": 3,
        "policy": POLICY,
        "prefixCacheScore": 0.0,
        "prediction": UNPREDICTED,
        "decision": {
            "reason": "prefill-decode",
            "filtered": 1,
            "picks": [
                pick("prefill", None, candidate(9107, 1.0, 0.0)),
                pick("decode", 0.0, candidate(9101, 1.0, 0.0), candidate(9102, 1.0, 0.0)),
            ],
        },
    }


def test_log_alone() -> None:
    """The log has scores and engine state, but neither weights nor the name of the decision."""
    assert facts(decided(read(LOG), None)["Z-pd2"]) == {
        "candidates": 2,
        "policy": "prefix-cache-scorer+queue-scorer",
        "prefixCacheScore": 1.0,
        "prediction": UNPREDICTED,
        "decision": {
            "reason": "",
            "filtered": None,
            "picks": [pick("leader", 2.0, candidate(9101, 3.0, 1.0), candidate(9102, 1.0, 0.0))],
        },
    }


def test_spans_alone() -> None:
    """Spans have names: with the endpoints of a file they are the endpoints of Envoy's log."""
    record = decided(None, traced(spans()), endpoints=NAMED)["Z-pd1"]
    decision = facts(record)["decision"]

    assert (decision["reason"], decision["filtered"], record.policy) == (
        "prefill-decode",
        1,
        POLICY,
    )
    assert [(each["role"], each["chosenRank"], each["margin"]) for each in decision["picks"]] == [
        ("prefill", 1, None),
        ("decode", 1, 0.0),
    ]
    assert [[one["score"] for one in each["candidates"]] for each in decision["picks"]] == [
        [1.0],
        [1.0, 1.0],
    ]


def test_unknown_names() -> None:
    """Names that nobody knows are counted, and compared with nothing."""
    found = decided(None, traced(spans()))

    assert facts(found["Z-pd1"])["candidates"] == 3
    # Envoy's log has the scores of the decode profile by address.
    assert [each["role"] for each in facts(found["Z-pd1"])["decision"]["picks"]] == ["decode"]
    assert found["Z-pd1"].policy == POLICY


@pytest.mark.parametrize(("number", "candidates"), [(None, 3), (0, 3), (7, 14)])
def test_only_the_best_have_names(number: int | None, candidates: int) -> None:
    """Of many candidates a span names the best: how many there were is what it says, or those."""
    key = "llm_d.epp.picker.candidate_endpoints"
    changed = spans()
    for each in changed:
        if each["attrs"].pop(key, None) is not None and number is not None:
            each["attrs"][key] = number

    record = decided(None, traced(changed), endpoints=NAMED)["Z-pd1"]

    assert record.candidates == candidates
    assert [each["role"] for each in facts(record)["decision"]["picks"]] == ["prefill", "decode"]


def test_envoy_alone() -> None:
    """The picker's weighted scores in Envoy's log are a decision as well."""
    joined = Joined().take(OBSERVED.read_bytes().splitlines())
    (record,) = [each for each in joined.records if each.request_id == "Z-pd2"]

    plain = [
        {"id": f"addr://127.0.0.1:{port}", "score": score}
        for port, score in ((9101, 3.0), (9102, 1.0))
    ]
    assert facts(record)["decision"] == {
        "reason": "",
        "filtered": None,
        "picks": [pick("leader", 2.0, *plain)],
    }


def pair(*, in_header: bool) -> list[bytes]:
    """A request to a pair, the prefill of which Envoy's log may tell."""
    lines = [json.loads(line) for line in OBSERVED.read_bytes().splitlines()]
    mine = [each for each in lines if each["rid"] == "Z-pd1"]
    if not in_header:
        mine = [{**each, "pf": None} for each in mine]
    mine.insert(
        1,
        {
            "type": "UpstreamPoolReady",
            "rid": "Z-pd1",
            "t": "1795970684.270000",
            "ep": "127.0.0.1:9101",
            "pf": mine[-1]["pf"],
        },
    )
    return [json.dumps(each).encode() for each in mine]


@pytest.mark.parametrize("in_header", [True, False])
def test_prefill(in_header: bool) -> None:
    """A prefill that only the picker tells of makes a pair, the load of which is unknown."""
    joined = Joined(picker=Picker(None, traced(spans()), 10.0))
    joined.take(pair(in_header=in_header))
    joined.now = 20.0
    joined.joiner.expire()
    (record,) = joined.records

    assert record.tracked_endpoints == ["addr://127.0.0.1:9107", "addr://127.0.0.1:9101"]
    assert (record.dispatch_inflight is not None) == in_header
    assert joined.loads == {}


@pytest.mark.parametrize("in_header", [True, False])
def test_nothing_is_left_for_the_garbage_collector(in_header: bool) -> None:
    """A request is freed with its record, though it was begun anew with its prefill."""
    joined = Joined(picker=Picker(None, traced(spans()), 10.0))

    with freed_without_collector(Lifecycle):
        joined.take(pair(in_header=in_header))
        joined.now = 20.0
        joined.joiner.expire()

    assert len(joined.records) == 1


def test_any_order_of_spans() -> None:
    """Spans come in any order, in exports of any size, and more than once."""
    expected = facts(decided(None, traced(spans()), endpoints=NAMED)["Z-pd1"])
    received = PickerSpans()
    for _ in range(2):
        received.take(export(reversed(spans())))

    assert facts(decided(None, received, endpoints=NAMED)["Z-pd1"]) == expected


def told(rid: str, message: str, at: float = 0.0, **fields: Any) -> bytes:
    """A line of a picker's log, so many seconds after the arrival of the requests."""
    ts = float(moment()) + at
    return json.dumps(
        {"level": "debug", "ts": ts, "msg": message, "x-request-id": rid, **fields}
    ).encode()


def choice(rid: str, *scored: tuple[str, float], at: float = 0.001) -> list[bytes]:
    """All lines of a decision."""
    endpoints = [
        {
            "Endpoint": {
                "ID": {"Namespace": "llm", "Name": address},
                "Address": address.partition(":")[0],
                "Port": address.partition(":")[2],
            },
            "Score": score,
        }
        for address, score in scored
    ]
    return [
        told(rid, "EPP received request", at),
        told(
            rid,
            "Selecting endpoints from candidates sorted by max score",
            at,
            **{"scored-endpoints": endpoints},
        ),
        told(rid, "Request handled", at),
    ]


def written(path: Path, lines: Sequence[bytes]) -> PickerLog:
    """A log of such lines, read to its end."""
    path.write_bytes(b"".join(line + b"\n" for line in lines))
    return read(path)


OTHER = "10.0.0.2:8000"
UNSAMPLED = f"00-{'a' * 32}-{'b' * 16}-00"


def picked(record: LifecycleRecord) -> list[dict[str, Any]]:
    """The candidates of a record's only pick."""
    (only,) = msgspec.to_builtins(record)["decision"]["picks"]
    return only["candidates"]


def test_load_at_dispatch(tmp_path: Path) -> None:
    """What is in flight on each candidate is noted if they are known at the dispatch."""
    lines = [*choice("a", (ENGINE, 2.0), (OTHER, 1.0)), *choice("b", (ENGINE, 2.0), (OTHER, 1.0))]
    log = written(tmp_path / "log", lines)
    joined = Joined(picker=Picker(log, None, 10.0))
    joined.take([start("a"), ready("a"), start("b"), ready("b"), end("b"), end("a")])
    joined.now = 20.0
    joined.joiner.expire()

    by_id = {record.request_id: picked(record) for record in joined.records}
    assert [each["inflight"]["requests"] for each in by_id["b"]] == [1, 0]
    assert [each["inflight"]["requests"] for each in by_id["a"]] == [0, 0]


def test_predictions(tmp_path: Path) -> None:
    """TTFT, TPOT and cached fraction of each candidate, as the source of llm-d writes them."""
    lines = choice("r", (ENGINE, 2.0), (OTHER, 1.0))
    for address, ttft_ms in ((ENGINE, 60.0), (OTHER, 40.0)):
        named = f"{{ID:llm/{address} Name:x Address:10.0.0.1 Port:8000 Labels:map[] RankIndex:0}}"
        values = {"endpoint": named, "TTFT": ttft_ms, "TPOT": 5, "prefixCacheScore": 0.25}
        lines.insert(1, told("r", "Prediction for scheduling", **values))
    hit = {"absolute hit prefix len (tokens)": 96, "prompt length (token)": 90}
    lines.insert(1, told("r", "Computed hit percentage for prefix cache", **hit))
    joined = Joined(picker=Picker(written(tmp_path / "log", lines), None, 10.0)).take(whole("r"))
    (record,) = joined.records

    assert (record.prediction.ttft_ms, record.prediction.tpot_ms) == (60.0, 5.0)
    assert record.prediction_mode == "active"
    assert record.prediction_error.ttft_ms == pytest.approx(47.9 - 60.0)
    assert record.prefix_cache_score == 0.25
    assert msgspec.to_builtins(record)["decision"]["picks"][0]["regretMillis"] == 20.0


def test_prefix_hit(tmp_path: Path) -> None:
    """Without a score the hit that the picker computed counts; whole blocks exceed the prompt."""
    lines = choice("r", (ENGINE, 2.0))
    hit = {"absolute hit prefix len (tokens)": 960, "prompt length (token)": 901}
    lines.insert(2, told("r", "Computed hit percentage for prefix cache", **hit))
    joined = Joined(picker=Picker(written(tmp_path / "log", lines), None, 10.0)).take(whole("r"))

    assert joined.records[0].prefix_cache_score == 1.0


def test_output_of_a_container(tmp_path: Path) -> None:
    """Kubernetes keeps the output with a time, and long lines in parts."""
    kept: list[bytes] = []
    for line in choice("r", (ENGINE, 2.0), (OTHER, 1.0)):
        parts = [line[at : at + 64] for at in range(0, len(line), 64)]
        marks = [b"P"] * (len(parts) - 1) + [b"F"]
        kept += [
            b"2026-11-29T16:44:44.264447Z stderr " + mark + b" " + part
            for mark, part in zip(marks, parts, strict=True)
        ]
    joined = Joined(picker=Picker(written(tmp_path / "log", kept), None, 10.0)).take(whole("r"))

    assert [each["score"] for each in picked(joined.records[0])] == [2.0, 1.0]


def test_waiting(tmp_path: Path) -> None:
    """A request that has ended waits for the picker, but no longer than it is told to."""
    path = tmp_path / "log"
    path.touch()
    log = PickerLog(path)
    joined = Joined(picker=Picker(log, None, 10.0)).take([*whole("a"), *whole("b")])
    assert (joined.records, joined.joiner.waiting) == ([], 2)

    path.write_bytes(b"".join(line + b"\n" for line in choice("b", (ENGINE, 2.0))))
    log.poll()
    joined.joiner.expire()
    assert [record.request_id for record in joined.records] == ["b"]

    joined.now = 9.9
    joined.joiner.expire()
    assert joined.joiner.waiting == 1
    joined.now = 10.1
    joined.joiner.expire()
    assert [record.request_id for record in joined.records] == ["b", "a"]
    assert msgspec.to_builtins(joined.records[1]).get("decision") is None


def test_nothing_to_wait_for() -> None:
    """Nothing is waited for if no picker sends spans, or if the trace is not sampled."""
    joined = Joined(picker=Picker(None, PickerSpans(), 10.0)).take(whole("a"))
    assert len(joined.records) == 1

    joined = Joined(picker=Picker(None, traced(spans()), 10.0))
    joined.take([*whole("a", tp=UNSAMPLED), *whole("b"), end("c", ep=None, up=None, attempts=0)])
    assert [record.request_id for record in joined.records] == ["a", "c"]


def test_same_id(tmp_path: Path) -> None:
    """What is told of one request is not taken for another with its id."""
    lines = [*choice("r", (ENGINE, 2.0)), *choice("r", (ENGINE, 5.0), (OTHER, 1.0), at=100.001)]
    later = {"t": moment(100_000_000), "conn": 9}
    log = written(tmp_path / "log", lines)
    joined = Joined(picker=Picker(log, None, 10.0)).take([end("r", **later), end("r")])
    assert [len(picked(record)) for record in joined.records] == [2, 1]

    mixed = [
        line
        for pair in zip(choice("r", (ENGINE, 2.0)), choice("r", (ENGINE, 5.0)), strict=True)
        for line in pair
    ]
    log = written(tmp_path / "mixed", mixed)
    joined = Joined(picker=Picker(log, None, 10.0)).take([end("r")])
    joined.joiner.expire(at_end=True)
    assert msgspec.to_builtins(joined.records[0]).get("decision") is None


def test_hostile_values(tmp_path: Path) -> None:
    """Lines and spans that are not as they should be harm nothing."""
    deep = b'{"msg":"Calculated score","x-request-id":"r","endpoint":' + b"[" * 50_000
    lines = [
        deep,
        b'{"msg":"Selecting endpoints","x-request-id":"r","scored-endpoints":[7]}',
        b'{"msg":"Selecting endpoints","x-request-id":"r","scored-endpoints":[]}',
        b'{"msg":"Request handled","x-request-id":7}',
        told("x" * 5_000, "Request handled"),
        told("r", "Calculated score", plugin="p/q", endpoint={"name": 7}, score=1.0),
        told("r", "Calculated score", plugin="p/q", endpoint={"name": "n"}, score="high"),
        told("r", "Prediction for scheduling", endpoint=["ID:a/b"], TTFT=1.0),
        told("r", "Computed hit percentage for prefix cache", **{"prompt length (token)": 0}),
        *(
            told("r", "Calculated score", plugin=f"s{n}/t", endpoint={"name": "n"}, score=1e308)
            for n in range(99)
        ),
        *choice("r", ("nowhere", float(10**300)), (ENGINE, -1e300)),
    ]
    odd = [
        {
            **each,
            "attrs": {
                key: [value] if isinstance(value, str) else "x"
                for key, value in each["attrs"].items()
                if key != "gen_ai.request.id"
            }
            | {"gen_ai.request.id": "r"},
        }
        for each in spans()
    ]
    received = traced(odd)
    joined = Joined(picker=Picker(written(tmp_path / "log", lines), received, 10.0)).take(
        whole("r")
    )
    joined.joiner.expire(at_end=True)
    (record,) = joined.records

    msgspec.convert(msgspec.to_builtins(record), LifecycleRecord)
    assert len(msgspec.json.encode(record)) < 20_000
    msgspec.json.decode(msgspec.json.encode(received.saved(["r"])), type=list[SavedTrace])


def test_bounded_memory() -> None:
    """Beyond a number of values, or an age, the oldest are given up."""
    now = 0.0
    values: held.Held[str] = held.Held(10, 60.0, lambda: now)
    for number in range(20):
        values.add(str(number), "")
    assert [values.get(str(number)) is not None for number in (9, 10, 19)] == [False, True, True]
    values.grow("15", 8)
    assert [values.get(str(number)) is not None for number in (14, 15, 16)] == [False, False, True]

    now = 61.0
    values.add("new", "")
    assert list(values.younger(100.0)) == ["new"]


def test_late_spans_of_an_old_trace() -> None:
    """Spans of a trace that is given up for its age while they are taken are no error."""
    now = 0.0
    received = PickerSpans(hold_for=60.0, monotonic=lambda: now)
    received.take(export(spans()[:1]))
    now = 61.0

    assert received.take(export(spans())) == len(spans())
    assert received.take(export(spans())) == len(spans())
    assert spans()[0]["trace"] in {each.trace_id for each in received.saved([])}


def test_resumed(tmp_path: Path) -> None:
    """After a restart what was told of requests in flight is still known."""
    path = tmp_path / "log"
    lines = choice("r", (ENGINE, 2.0), (OTHER, 1.0))
    saved = written(path, lines[:2]).saved(["r"])
    saved = msgspec.json.decode(msgspec.json.encode(saved), type=SavedLog)
    path.write_bytes(b"".join(line + b"\n" for line in lines))
    traces = msgspec.json.decode(
        msgspec.json.encode(traced(spans()).saved([])), type=list[SavedTrace]
    )
    picker = Picker(read(path, saved), PickerSpans(traces), 10.0)
    found = Joined(picker=picker).take(whole("r", tp=UNSAMPLED))

    assert [each["score"] for each in picked(found.records[0])] == [2.0, 1.0]
    again = decided(None, PickerSpans(traces), endpoints=NAMED)["Z-pd1"]
    assert facts(again) == facts(decided(None, traced(spans()), endpoints=NAMED)["Z-pd1"])
