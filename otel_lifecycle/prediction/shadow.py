"""Predicts latencies that the router did not predict, only for the record."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext, suppress
from importlib import import_module
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from otel_lifecycle.config.prediction import PredictionConfig
from otel_lifecycle.config.settings import missing_extra
from otel_lifecycle.model import LatencyPrediction, Load
from otel_lifecycle.model.features import PredictionInput, prediction_input
from otel_lifecycle.model.record import LifecycleRecord
from otel_lifecycle.prediction.llm_d_format import training_entries
from otel_lifecycle.prediction.predictor import Predictor, answer_within, route_prediction
from otel_lifecycle.runtime.forks import repair_in_forked_child
from otel_lifecycle.runtime.logs import get_logger
from otel_lifecycle.runtime.loop_thread import LoopThread
from otel_lifecycle.runtime.text import without_secrets

if TYPE_CHECKING:
    from otel_lifecycle.prediction.llm_d import LLMDPredictor

_logger = get_logger(__name__)

# llm-d's router sends once a second, at most that many.
_SEND_SECONDS = 1.0
_MAX_ENTRIES = 1_000
_EXCHANGE_SECONDS = 5.0  # also for training data
_POLL_SECONDS = 0.001


class InFlight(Protocol):
    """A request in flight, as shadow prediction uses it.

    Attributes:
        shadow: The shadow prediction, and the record that it is for.
    """

    shadow: tuple[LifecycleRecord, LatencyPrediction] | None

    @property
    def record(self) -> LifecycleRecord:
        """Its record."""
        ...

    @property
    def role_loads(self) -> Mapping[str, Load]:
        """Load of each counted endpoint at dispatch, by role."""
        ...

    @property
    def role_prefill_tokens(self) -> Mapping[str, int]:
        """What was left to prefill on each of them."""
        ...


class _Waiting(NamedTuple):
    """A dispatched request that waits for its prediction."""

    request: InFlight
    record: LifecycleRecord
    loads: Mapping[str, Load]
    prefill_tokens: Mapping[str, int]


class ShadowPrediction:
    """Requests predictions off the request's path, and sends finished requests for training.

    A prediction that arrives after the end of its request is dropped. Thread-safe; `predict` and
    `learn` never wait; making one takes a second if there is a model, to import LightGBM.

    Args:
        config: Settings.

    Raises:
        ConfigError: The settings name a service, and its client is not installed.
    """

    def __init__(self, config: PredictionConfig) -> None:
        self._config = config
        self._timeout = config.timeout.total_seconds()
        self._predicts = bool(config.model or config.url)
        self._waiting: deque[_Waiting] = deque(maxlen=config.max_queue)
        self._finished: deque[LifecycleRecord] = deque(maxlen=config.max_queue)
        self._work = asyncio.Event()
        self._ready = threading.Event()
        self._is_answering = False
        self._is_waited_for = True
        self._problem = ""
        self._client = _client(config)
        if config.model:
            # Before any request, which would wait for the interpreter's lock. Not on a thread: a
            # child forked in the middle of an import hangs when it imports the same modules.
            with suppress(Exception):  # `_load` says why
                import_module("otel_lifecycle.prediction.trained")
        self._thread = LoopThread("otel-lifecycle-predict", self._run)
        repair_in_forked_child(self, ShadowPrediction._after_fork_in_child)

    def predict(self, request: InFlight) -> None:
        """Queue the prediction of a request in flight, if there is room."""
        if self._predicts and len(self._waiting) < self._config.max_queue:
            self._thread.ensure_running()
            # Take the record and loads now: rerouting the request replaces both.
            waiting = _Waiting(
                request, request.record, request.role_loads, request.role_prefill_tokens
            )
            self._waiting.append(waiting)
            self._thread.wake(self._work.set)

    def wait_until_ready(self, timeout: float) -> bool:
        """Wait until the model is loaded, or cannot be; return False if that takes longer.

        Args:
            timeout: Seconds to wait at most.
        """
        self._thread.ensure_running()
        return self._ready.wait(timeout)

    def wait_for_answers(self) -> None:
        """Wait until nothing that was queued waits for its prediction any more.

        For an observer, which may read of the end of a request right after its dispatch. Once a
        prediction is late, neither this call nor a later one waits, until one comes in time again.
        """
        latest = time.monotonic() + 2 * self._timeout + _EXCHANGE_SECONDS
        # In this order: what was taken from the queue is being answered already.
        while self._is_waited_for and (self._waiting or self._is_answering):
            if time.monotonic() < latest:
                time.sleep(_POLL_SECONDS)
            else:
                self._is_waited_for = False

    def learn(self, record: LifecycleRecord) -> None:
        """Queue a finished request for training; beyond the bound the oldest is dropped."""
        if self._config.training_url:
            self._thread.ensure_running()
            self._finished.append(record)

    def close(self, timeout: float) -> None:
        """Stop; training data not sent yet is dropped.

        Args:
            timeout: Seconds to wait at most.
        """
        self._thread.close(timeout)

    def _after_fork_in_child(self) -> None:
        """Drop the queues: the parent sends them."""
        self._waiting.clear()
        self._finished.clear()
        self._ready = threading.Event()
        self._is_answering = False

    async def _run(self, stopped: asyncio.Event) -> None:
        self._work = asyncio.Event()
        async with self._service() as service:
            tasks: list[asyncio.Task[None]] = []
            if service is not None:
                tasks.append(asyncio.create_task(self._teach(service)))
            predictor = _load(self._config.model) if self._config.model else service
            if predictor is None:
                self._predicts = False
                self._waiting.clear()
            else:
                tasks.append(asyncio.create_task(self._predict_all(predictor)))
            self._ready.set()
            await stopped.wait()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _service(self) -> AbstractAsyncContextManager[LLMDPredictor | None]:
        if self._client is None:
            return nullcontext()
        exchange = max(self._timeout, _EXCHANGE_SECONDS)
        return self._client(self._config.url, self._config.training_url, exchange)

    async def _predict_all(self, predictor: Predictor) -> None:
        while True:
            self._work.clear()
            # One question for everything queued during the previous one.
            self._is_answering = True
            batch = [self._waiting.popleft() for _ in range(len(self._waiting))]
            try:
                if batch:
                    await self._predict(predictor, batch)
            except Exception:  # keep predicting later requests, whatever failed
                _logger.debug("%d requests could not be predicted", len(batch), exc_info=True)
            finally:
                self._is_answering = False
            if not batch:
                await self._work.wait()

    async def _predict(self, predictor: Predictor, batch: Sequence[_Waiting]) -> None:
        inputs = [_inputs(waiting) for waiting in batch]
        answer = await answer_within(predictor, list(chain(*inputs)), self._timeout)
        self._is_waited_for = answer is not None
        if answer is None:
            return
        predictions = iter(answer)
        for waiting, own in zip(batch, inputs, strict=True):
            prediction = route_prediction(own, list(islice(predictions, len(own))))
            # Stored with its record in one step: the request may have been rerouted meanwhile.
            waiting.request.shadow = (waiting.record, prediction)

    async def _teach(self, service: LLMDPredictor) -> None:
        while True:
            await asyncio.sleep(_SEND_SECONDS)
            entries: list[dict[str, Any]] = []
            problem = ""
            try:
                while self._finished and len(entries) < _MAX_ENTRIES:
                    entries += training_entries(self._finished.popleft())
                await service.learn(entries)
            except Exception as error:
                problem = without_secrets(f"{type(error).__name__}: {error}")
            if problem != self._problem and entries:
                self._problem = problem
                if problem:
                    _logger.warning("cannot send training data, dropping it: %s", problem)
                else:
                    _logger.warning("training data is accepted again")


def _client(config: PredictionConfig) -> type[LLMDPredictor] | None:
    """Return the client of the service, if the settings name one."""
    if not (config.url or config.training_url):
        return None
    try:
        from otel_lifecycle.prediction.llm_d import LLMDPredictor  # needs an extra
    except ImportError as error:
        setting = "prediction.url" if config.url else "prediction.training_url"
        raise missing_extra(setting, error) from error
    return LLMDPredictor


def _load(model: str) -> Predictor | None:
    """Return the predictor of a model file; log why there is none."""
    try:
        # An extra that takes a second to import: `ShadowPrediction` has done it.
        from otel_lifecycle.prediction.trained import TrainedModel, TrainedPredictor

        return TrainedPredictor(TrainedModel.load(Path(model).expanduser()))
    except ImportError as error:
        problem = str(missing_extra("prediction.model", error, "ml"))
    except Exception as error:  # whatever is wrong with the file, requests go on
        problem = f"prediction.model: {error}"
    _logger.warning("%s; requests are recorded without a prediction", problem)
    return None


def _inputs(waiting: _Waiting) -> list[PredictionInput]:
    record = waiting.record
    inputs: list[PredictionInput] = []
    for role, load in waiting.loads.items():
        one = prediction_input(
            role,
            getattr(record.selected_route, role),
            input_tokens=record.input_token_length,
            score=record.prefix_cache_score,
            missing=record.missing_feature_reasons,
        )
        one.inflight_tokens = load.tokens
        one.prefill_tokens = waiting.prefill_tokens.get(role)
        inputs.append(one)
    return inputs
