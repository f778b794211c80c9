"""Serves planned requests with a fleet, in virtual time."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing, nullcontext
from math import inf

import anyio
from demo.replay import PATIENCE_SECONDS
from demo.workload import PlannedRequest
from engine_sim.engine import Job
from engine_sim.prompt import InvalidRequestError
from hermes_router.model import (
    InferenceRequest,
    InferenceResponse,
    PromptTokenDetails,
    Route,
    SchedulingResult,
    Usage,
)
from hermes_router.predictor import REFRESH_SECONDS, LatencyPredictor

from otel_lifecycle import RequestLifecycleTracker
from simulation.fleet import Fleet
from simulation.requests import inference_request, job
from simulation.virtual_time import VirtualClock

SCRAPE_SECONDS = 0.5


class SimulatedRouter:
    """The course of the example router's proxy: schedule, dispatch, relay, end.

    Args:
        fleet: The engines and the router's decisions.
        tracker: Follows the requests, through the hooks.
        predictor: The router's predictor, which learns from the tracker's records.
        clock: Virtual time.
    """

    def __init__(
        self,
        fleet: Fleet,
        tracker: RequestLifecycleTracker,
        predictor: LatencyPredictor,
        clock: VirtualClock,
    ) -> None:
        self._fleet = fleet
        self._tracker = tracker
        self._predictor = predictor
        self._clock = clock

    async def run(self, requests: Sequence[PlannedRequest], on_answer: Callable[[], None]) -> None:
        """Serve all requests, each at its time.

        Args:
            requests: The requests, by time.
            on_answer: Called after each request has ended.
        """
        async with anyio.create_task_group() as background:
            background.start_soon(self._scrape)
            background.start_soon(self._learn)
            async with anyio.create_task_group() as clients:
                for planned in requests:
                    await anyio.sleep(planned.at - anyio.current_time())
                    clients.start_soon(self._serve, planned, on_answer)
            background.cancel_scope.cancel()

    async def _scrape(self) -> None:
        while True:
            self._fleet.scrape(self._clock.now())
            await anyio.sleep(SCRAPE_SECONDS)

    async def _learn(self) -> None:
        while True:
            self._tracker.flush()
            self._predictor.refresh()
            await anyio.sleep(REFRESH_SECONDS)

    async def _serve(self, planned: PlannedRequest, on_answer: Callable[[], None]) -> None:
        request, response = inference_request(planned), InferenceResponse()
        result = self._fleet.director.schedule(request, ())
        assert result is not None  # no endpoint ever leaves
        self._fleet.director.pre_request(request, result)
        self._tracker.pre_request(request, result)
        try:
            response.termination_cause = await self._relay(request, planned, result, response)
        except InvalidRequestError:
            response.termination_cause, response.error = "error", "http_400"
        response.end_of_stream = True
        self._note(request, response, result)
        on_answer()

    async def _relay(
        self,
        request: InferenceRequest,
        planned: PlannedRequest,
        result: SchedulingResult,
        response: InferenceResponse,
    ) -> str:
        """Pass on the chunks until the answer is complete or the client leaves; say which."""
        leave_after = inf if planned.leave_after_chunks is None else planned.leave_after_chunks
        work, answer = self._answer(request, planned, result)
        chunks = 0
        with nullcontext() if leave_after else anyio.move_on_after(PATIENCE_SECONDS) as patience:
            async with aclosing(answer):
                async for _ in answer:
                    chunks += 1
                    # Later chunks change nothing for router and tracker.
                    if chunks == 1 and planned.stream:
                        self._note(request, response, result)
                    if chunks >= leave_after:
                        return "client-disconnect"
        if patience is not None and patience.cancelled_caught:
            return "client-disconnect"
        response.usage = Usage(
            work.prompt.tokens, work.output_tokens, PromptTokenDetails(work.cached_tokens)
        )
        if not planned.stream:
            self._note(request, response, result)
        return "natural"

    def _answer(
        self, request: InferenceRequest, planned: PlannedRequest, result: SchedulingResult
    ) -> tuple[Job, AsyncGenerator[int, None]]:
        """Return the engine's work, and its chunks as they come."""
        route = result.primary_route
        engine = self._fleet.engine(result.target.metadata if route is None else route.decode)
        work = job(request, planned, engine.config.block_size)
        if route is not None:
            return work, self._generate_as_pair(work, route)
        engine.check(work)
        return work, engine.generate(work)

    async def _generate_as_pair(self, work: Job, route: Route) -> AsyncGenerator[int, None]:
        """Do what a leader does: prefill on one engine, decode on another."""
        leader, prefill, decode = map(
            self._fleet.engine, (route.leader, route.prefill, route.decode)
        )
        leader.running += 1
        try:
            first = Job(work.prompt, output_tokens=1)
            prefill.check(first)
            decode.check(work)
            async with aclosing(prefill.generate(first)) as chunks:
                async for _ in chunks:
                    pass
            work.kv_transferred, work.cached_tokens = True, first.cached_tokens
            async with aclosing(decode.generate(work)) as chunks:
                async for tokens in chunks:
                    yield tokens
        finally:
            leader.running -= 1

    def _note(
        self, request: InferenceRequest, response: InferenceResponse, result: SchedulingResult
    ) -> None:
        target = result.target.metadata
        self._fleet.director.response_body(request, response, target)
        self._tracker.response_body(request, response, target)
