"""The simulation: deterministic, in virtual time, with the parts of the real router."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timezone
from itertools import islice
from pathlib import Path
from typing import cast

import pytest
from demo.engines import engine_roles
from demo.prompts import TokenPrompt
from demo.workload import PlannedRequest, generate, read_trace
from engine_sim.config import EngineConfig
from engine_sim.engine import Engine, Job
from engine_sim.exposition import npu_metrics, vllm_metrics
from engine_sim.prompt import Prompt
from hermes_router.datastore import Endpoint
from hermes_router.endpoint import EndpointMetadata, NamespacedName
from hermes_router.exposition import parse_exposition
from hermes_router.model import LatencyPredictionInfo
from hermes_router.observations import engine_metrics, npu_state
from hermes_router.predictor import Prospect
from hermes_router.prompt import token_prompt
from simulation.fleet import Routing, engine_configs, scraped_metrics, scraped_npus
from simulation.requests import inference_request
from simulation.scenario import Scenario
from simulation.trained import TrainedLatency, prediction_input
from simulation.virtual_time import VirtualTimeLoop, run

from otel_lifecycle import LifecycleRecord, Outcome, read_records
from otel_lifecycle.model.features import PredictionInput
from otel_lifecycle.prediction.trained import TrainedModel

NOW = datetime(2026, 1, 1, tzinfo=timezone.utc)
REQUESTS = generate(80, seed=1)


def scenario(
    mode: str = "aggregated", policy: str = "prediction", explore: float = 0.0, seed: int = 0
) -> Scenario:
    engines = engine_configs(engine_roles(mode, 4), block_size=64, prefill_tokens_per_second=6_000)
    return Scenario(REQUESTS, engines, Routing(policy, explore, seed))


def test_equal_scenarios_give_equal_records(tmp_path: Path) -> None:
    """A seed determines every byte of the records, ids and times too; another one differs."""
    first, again, other = (tmp_path / name for name in ("first", "again", "other"))

    scenario("aggregated", "random", 0.2).run(first)
    scenario("aggregated", "random", 0.2).run(again)
    scenario("aggregated", "random", 0.2, seed=1).run(other)

    assert first.read_bytes() == again.read_bytes() != other.read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {"first", "again", "other"}


def simulated(path: Path, what: Scenario) -> list[LifecycleRecord]:
    what.run(path)
    return list(read_records(path))


def test_records_of_a_simulated_run(tmp_path: Path) -> None:
    """Each request has a whole record; later ones tell the prediction for every candidate."""
    records = simulated(tmp_path / "records.jsonl", scenario())

    outcomes = Counter(record.outcome for record in records)
    leaving = sum(request.leave_after_chunks is not None for request in REQUESTS)
    assert {record.request_id for record in records} == {one.request_id for one in REQUESTS}
    assert set(outcomes) == {Outcome.COMPLETED, Outcome.CLIENT_DISCONNECT}
    assert 0 < outcomes[Outcome.CLIENT_DISCONNECT] <= leaving
    (pick,) = records[-1].decision.picks  # pyright: ignore[reportAttributeAccessIssue]
    assert len(pick.candidates) == 4
    assert all(
        one.prediction and one.prediction.ttft_ms and one.prediction.tpot_ms
        for one in pick.candidates
    )
    assert pick.regret_ms is not None
    completed = [record for record in records if record.outcome is Outcome.COMPLETED]
    assert all(record.output_length and record.cached_tokens is not None for record in completed)
    assert all(record.actual.ttft_ms for record in completed if record.streaming)
    assert {reason.reason for record in records for reason in record.missing_feature_reasons} <= {
        "prefix_cache_missing"
    }


def test_prefill_and_decode_engines(tmp_path: Path) -> None:
    """In pd mode each request has a pair of engines, and caches are those of the prefills."""
    records = simulated(tmp_path / "records.jsonl", scenario("pd"))

    routes = [record.selected_route for record in records]
    assert all(route and route.leader.id and route.prefill and route.decode for route in routes)
    assert any(record.cached_tokens for record in records)


class Listening:
    """Predicts nothing, and notes what it is asked."""

    def __init__(self) -> None:
        self.asked: list[PredictionInput] = []

    def predict_all(
        self, role: str, prospects: Sequence[Prospect]
    ) -> Sequence[LatencyPredictionInfo]:
        self.asked += [prediction_input(role, prospect) for prospect in prospects]
        return [LatencyPredictionInfo()] * len(prospects)


@pytest.mark.parametrize("mode", ["aggregated", "pd"])
def test_a_model_is_asked_what_the_records_tell(tmp_path: Path, mode: str) -> None:
    """What it learnt from records is what it sees when the router asks it, load included."""
    predictor, whole = Listening(), scenario(mode)
    routing = replace(whole.routing, predictor=predictor)

    records = simulated(tmp_path / "records.jsonl", replace(whole, routing=routing))

    assert any(one.prefill_tokens for one in predictor.asked)
    asked = iter(predictor.asked)
    for record in sorted(records, key=lambda record: record.started_at):
        considered = list(islice(asked, 4))
        assert record.prediction_inputs
        assert [one for one in record.prediction_inputs if one not in considered] == []


def test_no_time_at_all_is_a_prediction() -> None:
    """The router takes 0 for unknown, and knows nothing if it does not know all candidates."""

    class Model:
        def predict(self, _target: object, features: Sequence[object]) -> list[float]:
            return [0.0] * len(features)

    metadata = EndpointMetadata(NamespacedName("llm", "engine"), "engine", "10.0.0.1", "8000")
    prospect = Prospect(Endpoint(metadata), 100, 0.0)
    (told,) = TrainedLatency(cast("TrainedModel", Model())).predict_all("aggregated", [prospect])

    assert told.ttft is not None
    assert told.tpot is not None
    assert 0 < told.ttft < 1 > told.tpot > 0


def test_requests_are_left_out_in_the_order_of_the_trace(tmp_path: Path) -> None:
    """A model learnt from the first lines, whenever their requests came."""
    trace = tmp_path / "trace.jsonl"
    line = '{{"timestamp": {}, "input_length": 1, "output_length": 1, "hash_ids": [1]}}\n'
    trace.write_text(line.format(2_000) + line.format(1_000) + line.format(3_000))

    assert [request.request_id for request in read_trace(trace, None, 1)] == ["trace-2", "trace-3"]


def test_a_request_that_fits_nowhere_fails(tmp_path: Path) -> None:
    """The engine refuses it, as it does over HTTP."""
    whole = scenario()
    small = [replace(engine, cache_blocks=8) for engine in whole.engines]

    records = simulated(tmp_path / "records.jsonl", replace(whole, engines=small))

    assert {record.error.type for record in records if record.error} == {"http_400"}


def test_scrapes_equal_those_over_http() -> None:
    """The router sees in a simulation what it would read in an engine's metrics."""
    config = EngineConfig(npus=3)
    engine = Engine(config)

    async def scrape() -> None:
        job = Job(Prompt(1_000, (b"a",)), output_tokens=2)
        answer = engine.generate(job)
        await anext(answer)
        text = vllm_metrics(config, engine.load)
        assert scraped_metrics(engine, NOW) == engine_metrics(parse_exposition(text), NOW)
        text = npu_metrics(config, engine.load, random.Random(3))
        over_http = npu_state(parse_exposition(text), "10.0.0.1:8000", NOW)
        direct = scraped_npus(engine, random.Random(3), "10.0.0.1:8000", NOW)
        assert replace(direct, observation_time=over_http.observation_time) == over_http
        await answer.aclose()

    run(VirtualTimeLoop(), scrape())


def test_blocks_share_what_their_tokens_share() -> None:
    """Prompts known by their blocks have equal prefixes where their token ids have."""
    prompts = [TokenPrompt(ids, 64, 64 * len(ids) - 5) for ids in ((1, 2, 3), (1, 2, 4), (5, 2, 3))]

    by_block = [
        inference_request(PlannedRequest(str(number), 0.0, prompt, 1)).prompt.block_hashes(64)
        for number, prompt in enumerate(prompts)
    ]
    by_token = [token_prompt(prompt.token_ids()).block_hashes(64) for prompt in prompts]

    equal = [
        [[one == other for one, other in zip(left, right, strict=True)] for right in hashes]
        for hashes in (by_block, by_token)
        for left in hashes
    ]
    assert equal[:3] == equal[3:]
    assert [len(hashes) for hashes in by_block] == [2, 2, 2]


def test_time_jumps() -> None:
    """An hour passes at once, in the order of events; waiting for nothing is an error."""
    events: list[tuple[str, float]] = []

    async def at(name: str, seconds: float) -> None:
        await asyncio.sleep(seconds)
        events.append((name, asyncio.get_running_loop().time()))

    async def both() -> None:
        await asyncio.gather(at("late", 3_600.0), at("early", 0.5))

    run(VirtualTimeLoop(), both())

    assert events == [("early", 0.5), ("late", 3_600.0)]
    with pytest.raises(RuntimeError, match="nothing is left"):
        run(VirtualTimeLoop(), asyncio.Event().wait())
