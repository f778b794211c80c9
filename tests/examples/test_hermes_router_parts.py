"""The parts of the router that need no socket."""

from __future__ import annotations

import json
import random
from array import array
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
from engine_sim.config import EngineConfig
from engine_sim.exposition import Load, npu_metrics, vllm_metrics
from engine_sim.prompt import parse_prompt
from hermes_router.answer import StreamedAnswer, WholeAnswer
from hermes_router.config import describe_endpoint, load_endpoints, parse_endpoint
from hermes_router.endpoint import EndpointMetrics
from hermes_router.errors import InvalidFieldError
from hermes_router.exposition import parse_exposition
from hermes_router.model import LatencyPredictionInfo, PromptTokenDetails, Usage
from hermes_router.observations import engine_metrics, npu_state, served_models
from hermes_router.openai_request import parse_request
from hermes_router.predictor import MIN_SAMPLES, Features, LatencyPredictor
from hermes_router.prefix_index import PrefixIndex

NOW = datetime(2026, 1, 1, tzinfo=timezone.utc)
A, B, C = b"a", b"b", b"c"


def test_prefix_index_matches_leading_blocks_only() -> None:
    """A block counts only if all blocks before it are known."""
    index = PrefixIndex(capacity=10)
    index.add([A, B])
    assert [index.match([A, B, C]), index.match([A, C]), index.match([C, A])] == [2, 1, 0]


def test_prefix_index_forgets_the_end_first() -> None:
    """At its limit the index keeps the newest prompts, and the start of older ones."""
    index = PrefixIndex(capacity=2)
    index.add([A, B])
    index.add([C])
    assert [index.match([A, B]), index.match([C])] == [1, 1]


@pytest.mark.parametrize(
    ("path", "payload"),
    [
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "grüezi " * 99}]}),
        ("/v1/completions", {"prompt": "hello \ud800 " * 99}),
        ("/v1/completions", {"prompt": list(range(999))}),
    ],
)
def test_blocks_are_hashed_as_the_engine_does(path: str, payload: dict[str, Any]) -> None:
    """Router and engine hash blocks alike; otherwise the index would be useless."""
    content = json.dumps({"model": "m", **payload}).encode()
    hashes = parse_request(path, {}, content).prompt.block_hashes(16)
    assert len(hashes) > 5
    assert parse_prompt(payload, 16).block_hashes == hashes


def test_a_tokenized_prompt_is_not_estimated() -> None:
    """Token ids are counted; text is estimated, and marked as such."""
    tokens = parse_request("/v1/completions", {}, b'{"model": "m", "prompt": [1, 2, 3]}')
    text = parse_request("/v1/completions", {}, b'{"model": "m", "prompt": "eight ch"}')
    assert tokens.tokenized_prompt is not None
    assert tokens.tokenized_prompt.token_ids == [1, 2, 3]
    assert tokens.prompt_tokens_estimate is None
    assert text.tokenized_prompt is None
    assert text.prompt_tokens_estimate == 2


@pytest.mark.parametrize(
    ("payload", "field"),
    [
        ({"prompt": "x"}, "model"),
        ({"model": "m"}, "prompt"),
        ({"model": "m", "prompt": ["x"]}, "prompt"),
        ({"model": "m", "prompt": "x", "stream": "yes"}, "stream"),
    ],
)
def test_a_request_that_cannot_be_routed_names_the_field(
    payload: dict[str, Any], field: str
) -> None:
    """The error for the client names the wrong field."""
    with pytest.raises(InvalidFieldError) as caught:
        parse_request("/v1/completions", {}, json.dumps(payload).encode())
    assert caught.value.field == field


EVENTS = (
    b'data: {"choices": [{"text": "say \\"usage\\" or data: [DONE]"}], "usage": null}\r\n\r\n'
    b'data: {"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 3, '
    b'"prompt_tokens_details": {"cached_tokens": 4}}}\n\n'
    b"data: [DONE]\n\n"
)
USAGE = Usage(7, 3, PromptTokenDetails(4))


@pytest.mark.parametrize("size", [1, 2, 3, 7, 50, 1000])
def test_usage_and_done_are_seen_across_chunks(size: int) -> None:
    """Chunks may be split anywhere."""
    answer = StreamedAnswer()
    for start in range(0, len(EVENTS), size):
        answer.feed(EVENTS[start : start + size])
    answer.end()
    assert (answer.usage, answer.complete) == (USAGE, True)


def test_a_stream_without_done_is_not_complete() -> None:
    """Text that mentions `[DONE]` does not end a stream."""
    answer = StreamedAnswer()
    answer.feed(EVENTS.removesuffix(b"data: [DONE]\n\n"))
    answer.end()
    assert (answer.usage, answer.complete) == (USAGE, False)


def test_a_whole_answer_may_lack_usage() -> None:
    """Any answer is accepted; absent usage is not zero."""
    answer = WholeAnswer()
    answer.feed(b"not json")
    answer.end()
    assert (answer.usage, answer.complete) == (None, True)


def test_scraped_metrics() -> None:
    """The router reads the values that an engine serves."""
    load = Load(3, 2, 0.25, True, 100, 50)
    samples = list(parse_exposition(vllm_metrics(EngineConfig(model="m"), load)))
    assert served_models(samples) == {"m"}
    assert engine_metrics(samples, NOW) == EndpointMetrics(
        update_time=NOW,
        max_active_models=0,
        running_requests_size=3,
        waiting_queue_size=2,
        kv_cache_usage_percent=0.25,
        kv_cache_max_token_capacity=2000 * 512,
        cache_block_size=512,
        cache_num_blocks=2000,
    )


def test_scraped_npus() -> None:
    """Chips are averaged; the time is the exporter's."""
    load = Load(16, 0, 0.5, True, 0, 0)
    text = npu_metrics(EngineConfig(npus=2), load, random.Random(0))
    state = npu_state(parse_exposition(text), "10.0.0.1:9001", NOW)
    assert [device.device_id for device in state.devices] == ["0", "1"]
    assert (state.data_status, state.device_count) == ("fresh", 2)
    assert state.observation_time > NOW
    core = [device.ai_core_utilization or 0 for device in state.devices]
    assert state.ai_core_utilization_avg == sum(core) / 2
    assert state.ai_core_utilization_max == max(core)


def test_a_chip_without_a_value_is_partial() -> None:
    """A missing value is neither invented nor counted as zero."""
    text = 'npu_chip_info_utilization{id="0"} 40\nnpu_chip_info_hbm_utilization{id="0"} NaN\n'
    state = npu_state(parse_exposition(text), "t", NOW)
    assert (state.data_status, state.observation_time) == ("partial", NOW)
    assert (state.ai_core_utilization_avg, state.hbm_utilization_avg) == (40, None)
    assert npu_state([], "t", NOW).data_status == "missing"


def test_exposition_oddities() -> None:
    """Escapes in labels are decoded, and malformed lines are skipped."""
    text = '# HELP x\nx{a="1\\"2\\\\",b="}"} +Inf 12\nnonsense\ny 1e3\nz{} what\n'
    parsed = [(sample.name, sample.labels, sample.value) for sample in parse_exposition(text)]
    assert parsed == [("x", {"a": '1"2\\', "b": "}"}, float("inf")), ("y", {}, 1000.0)]


def features(rng: random.Random) -> Features:
    return Features(
        num_request_waiting=rng.randint(0, 5),
        num_request_running=rng.randint(0, 16),
        input_token_length=rng.randint(100, 20_000),
        prefix_cache_score=rng.random(),
        inflight_tokens=rng.randint(0, 50_000),
        kv_cache_usage=rng.random(),
    )


def ttft_law(f: Features) -> float:
    uncached = f.input_token_length * (1 - f.prefix_cache_score)
    return 5 + uncached / 20 + 30 * f.num_request_waiting


def record(f: Features, pod_type: str = "", **changes: Any) -> str:
    inputs = {
        "podType": pod_type,
        "numRequestWaiting": f.num_request_waiting,
        "numRequestRunning": f.num_request_running,
        "inputTokenLength": f.input_token_length,
        "prefixCacheScore": f.prefix_cache_score,
        "inflightTokens": f.inflight_tokens,
        "kvCacheUsage": f.kv_cache_usage,
    }
    tpot = 10 + f.num_request_running / 4
    actual = {"ttftMillis": ttft_law(f), "tpotMillis": tpot, "e2eMillis": 1.0}
    fields = {"outcome": "completed", "predictionInputs": [inputs], "actual": actual, **changes}
    return json.dumps(fields) + "\n"


def test_predictor_learns_a_law(tmp_path: Path) -> None:
    """From records that follow a law the predictor predicts further values of it."""
    rng = random.Random(1)
    path = tmp_path / "records.jsonl"
    path.write_text("".join(record(features(rng)) for _ in range(200)))
    predictor = LatencyPredictor(path)
    predictor.refresh()
    probe = features(rng)
    known = predictor.predict("aggregated", probe)
    assert known.ttft == pytest.approx(ttft_law(probe), rel=0.01)
    assert known.tpot == pytest.approx(10 + probe.num_request_running / 4, rel=0.01)
    assert predictor.predict("aggregated", None) == LatencyPredictionInfo()


def test_predictor_keeps_roles_apart(tmp_path: Path) -> None:
    """A prefill endpoint has a TTFT, a decode endpoint a TPOT."""
    rng = random.Random(1)
    path = tmp_path / "records.jsonl"
    lines = [record(features(rng), pod) for pod in ("prefill", "decode") for _ in range(50)]
    path.write_text("".join(lines))
    predictor = LatencyPredictor(path)
    predictor.refresh()
    probe = features(rng)
    known = [predictor.predict(role, probe) for role in ("prefill", "decode", "aggregated")]
    told = [(one.ttft is not None, one.tpot is not None) for one in known]
    assert told == [(True, False), (False, True), (False, False)]


def test_predictor_waits_for_enough_good_samples(tmp_path: Path) -> None:
    """Failed, incomplete and torn records are not used; the others are read as they come."""
    rng = random.Random(1)
    path = tmp_path / "records.jsonl"
    predictor = LatencyPredictor(path)
    predictor.refresh()  # the file is not there yet
    probe = features(rng)
    useless = [
        *(record(features(rng), outcome="error") for _ in range(50)),
        *(record(features(rng), actual=None) for _ in range(50)),
        *(record(features(rng), predictionInputs=[{"podType": ""}]) for _ in range(50)),
        "[]\n",
        "torn{\n",
    ]
    good = [record(features(rng)) for _ in range(MIN_SAMPLES)]
    path.write_text("".join(useless + good)[:-9])
    predictor.refresh()
    assert predictor.predict("aggregated", probe).ttft is None
    with path.open("a") as file:
        file.write(good[-1][-9:])
    predictor.refresh()
    assert predictor.predict("aggregated", probe).ttft is not None


def test_predictor_follows_a_replaced_file(tmp_path: Path) -> None:
    """A rotated file is read from its start."""
    rng = random.Random(1)
    path = tmp_path / "records.jsonl"
    path.write_text("".join(record(features(rng)) for _ in range(MIN_SAMPLES - 1)))
    predictor = LatencyPredictor(path)
    predictor.refresh()
    path.rename(tmp_path / "records.1.jsonl")
    path.write_text(record(features(rng)))
    predictor.refresh()
    assert predictor.predict("aggregated", features(rng)).ttft is not None


def test_an_endpoint_is_described_as_it_was_given(tmp_path: Path) -> None:
    """A description is kept completely, and defaults are filled in."""
    path = tmp_path / "endpoints.json"
    given = {"name": "p", "namespace": "n", "pod": "q", "address": "::", "port": 1}
    path.write_text(
        json.dumps([{**given, "address": "h", "role": "prefill", "labels": {"a": "b"}}])
    )
    (endpoint,) = load_endpoints(path)
    assert (endpoint.role, endpoint.port, endpoint.pod_name) == ("prefill", "1", "q")
    assert parse_endpoint(describe_endpoint(endpoint)) == endpoint
    assert parse_endpoint({"name": "x", "address": "h", "port": 1}).pod_name == "x"


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"name": ""}, "name"),
        ({"name": "a/b"}, "name"),
        ({"address": "a b"}, "address"),
        ({"port": 0}, "port"),
        ({"port": True}, "port"),
        ({"role": "encoder"}, "role"),
        ({"labels": {"a": 1}}, "labels.a"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_a_bad_endpoint_names_the_field(change: dict[str, Any], field: str) -> None:
    """The error for the operator names the wrong field."""
    with pytest.raises(InvalidFieldError) as caught:
        parse_endpoint({"name": "x", "address": "h", "port": 1, **change})
    assert caught.value.field == field


def test_token_ids_are_eight_bytes_each() -> None:
    """The size of a block in bytes depends on the kind of the prompt."""
    request = parse_request("/v1/completions", {}, b'{"model": "m", "prompt": [1, 2, 3]}')
    assert request.prompt.content == array("q", [1, 2, 3]).tobytes()
    assert [request.prompt.block_count(size) for size in (1, 2, 512)] == [3, 2, 1]
