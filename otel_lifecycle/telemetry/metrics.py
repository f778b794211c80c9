"""What a finished request adds to counters and histograms.

`LifecycleMetrics.record` is called off the request's path. Requests that differ in nothing that
metrics tell apart share cells, which are looked up once and kept for a while.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from msgspec import UNSET
from opentelemetry.metrics import MeterProvider

from otel_lifecycle.config import TrackerConfig
from otel_lifecycle.config.labels import parse_labels
from otel_lifecycle.config.slo import TARGETS
from otel_lifecycle.model import Outcome, semconv
from otel_lifecycle.model.decision import Decision
from otel_lifecycle.model.record import LifecycleRecord
from otel_lifecycle.model.route import EndpointSnapshot
from otel_lifecycle.runtime.clock import Clock
from otel_lifecycle.telemetry.cardinality import OTHER, BoundedValues
from otel_lifecycle.telemetry.cells import CounterCell, HistogramCell, Moment
from otel_lifecycle.telemetry.instruments import Instruments
from otel_lifecycle.telemetry.observations import LiveState

# The attributes whose values a router chooses.
_BOUNDED: Final = (
    semconv.REQUEST_MODEL,
    semconv.OPERATION_NAME,
    semconv.PROVIDER_NAME,
    semconv.ERROR_TYPE,
    semconv.ENDPOINT_ID,
    semconv.ROUTE_POLICY,
)

# How long values may be in use without being counted as used: much less than it takes to make room.
_KEPT_NS: Final = 10_000_000_000
_MAX_KEPT: Final = 1024  # clients choose models


class _Series:
    """The cells of requests that differ in nothing that metrics tell apart."""

    __slots__ = (
        "_counted",
        "_slo",
        "_slo_cell",
        "duration",
        "predicted_tpot",
        "predicted_ttft",
        "queue",
        "requests",
        "tpot",
        "ttft",
    )

    def __init__(
        self,
        instruments: Instruments,
        attributes: dict[str, str | int],
        outcome: str,
        error_type: str | None,
        labels: dict[str, str | int],
    ) -> None:
        attributes = {**attributes, **labels}
        self.queue = instruments.queue.cell(attributes)
        self.ttft = instruments.ttft.cell(attributes)
        self.tpot = instruments.tpot.cell(attributes)
        self.predicted_ttft = instruments.predicted_ttft.cell(attributes)
        self.predicted_tpot = instruments.predicted_tpot.cell(attributes)
        if semconv.REQUEST_MODEL in attributes:
            labels = {**labels, semconv.REQUEST_MODEL: attributes[semconv.REQUEST_MODEL]}
        self.requests = instruments.requests.cell({**labels, semconv.OUTCOME: outcome})
        self._slo: dict[tuple[str, bool], CounterCell] = {}
        self._slo_cell, self._counted = instruments.slo.cell, labels
        ended = {**attributes, semconv.OUTCOME: outcome}
        if error_type is not None:
            ended[semconv.ERROR_TYPE] = error_type
        self.duration = instruments.duration.cell(ended)

    def slo(self, target: str, *, met: bool) -> CounterCell:
        """The cell of requests with a target that they met, or did not."""
        cell = self._slo.get((target, met))
        if cell is None:
            attributes = {semconv.SLO_TARGET: target, semconv.SLO_MET: met}
            cell = self._slo[target, met] = self._slo_cell({**self._counted, **attributes})
        return cell


class LifecycleMetrics:
    """The metrics of one tracker; thread-safe.

    Args:
        store: Whose state the gauges show.
        config: Bounds.
        meter_provider: Where they go.
        before_collect: Called before gauges are read, to record what is still waiting.
        clock: What tells the age of what gauges show.
    """

    def __init__(
        self,
        store: LiveState,
        config: TrackerConfig,
        meter_provider: MeterProvider,
        before_collect: Callable[[], None],
        clock: Clock,
    ) -> None:
        self.store = store
        self.config = config
        self.before_collect = before_collect
        self.clock = clock
        self._instruments = Instruments.of(meter_provider)
        self._labels = [
            label.name for label in parse_labels(config.labels).values() if label.metric
        ]
        bounded = (*_BOUNDED, *(semconv.LABEL + name for name in self._labels))
        self._values = {
            name: BoundedValues(config.max_metric_values, self._forget_cells) for name in bounded
        }
        self._series: dict[tuple[object, ...], _Series] = {}
        self._errors: dict[tuple[str, ...], HistogramCell] = {}
        self._decisions: dict[tuple[str, str], tuple[HistogramCell, HistogramCell]] = {}
        self._generation = -1
        self._kept_until_ns = 0
        self._instruments.add(self)

    def close(self) -> None:
        """Takes the store's gauges away."""
        self._instruments.remove(self)

    def record(self, record: LifecycleRecord) -> None:
        """Records a finished request: one count, and the latencies it has."""
        cells = self._instruments.cells
        with cells.lock:
            if cells.are_read():
                now_ns = self.clock.monotonic_ns()
                if cells.generation != self._generation or now_ns >= self._kept_until_ns:
                    self._generation = cells.generation
                    self._kept_until_ns = now_ns + _KEPT_NS
                    self._forget_cells()
                self._record(record, now_ns)
        for role in record.endpoint_deleted:
            self.forget(getattr(record.selected_route, role).label)

    def forget(self, endpoint_label: str) -> None:
        """Forgets an endpoint that was deleted; after the records of what has ended on it.

        Args:
            endpoint_label: Its `Endpoint.label`.
        """
        with self._instruments.cells.lock:
            self._values[semconv.ENDPOINT_ID].forget(endpoint_label)

    def _record(self, record: LifecycleRecord, now_ns: int) -> None:
        unix_ns = self.clock.wall_ns()
        moment = Moment(unix_ns, record.trace_id, record.span_id, record.trace_flags)
        series = self._series_of(record, now_ns)
        series.requests.add(moment)
        actual = record.actual
        prediction = record.prediction
        if actual.queue_ms is not None:
            series.queue.record(actual.queue_ms / 1000, moment)
        # What was never measured has no counterpart to be compared with.
        if actual.ttft_ms is not None:
            series.ttft.record(actual.since_arrival(actual.ttft_ms) / 1000, moment)
            if prediction.ttft_ms is not None:
                series.predicted_ttft.record(prediction.ttft_ms / 1000, moment)
        if actual.tpot_ms is not None:
            series.tpot.record(actual.tpot_ms / 1000, moment)
            if prediction.tpot_ms is not None:
                series.predicted_tpot.record(prediction.tpot_ms / 1000, moment)
        if actual.e2e_ms is not None:
            series.duration.record(actual.since_arrival(actual.e2e_ms) / 1000, moment)
        if record.slo is not UNSET:
            for name in TARGETS:
                target = getattr(record.slo, name)
                if target is not UNSET and target.met is not None:
                    series.slo(name, met=target.met).add(moment)
        self._record_prediction_error(record, moment, now_ns)
        for decision in (record.decision, *(change.decision for change in record.rerouted)):
            if decision is not UNSET:
                self._record_decision(decision, record.policy, moment, now_ns)

    def _record_prediction_error(
        self, record: LifecycleRecord, moment: Moment, now_ns: int
    ) -> None:
        route = record.selected_route
        if route is None:
            return
        errors = record.prediction_error
        for target, error_ms, endpoint in (
            ("ttft", errors.ttft_ms, route.prefill or route.leader),
            ("tpot", errors.tpot_ms, route.decode or route.leader),
        ):
            if error_ms is not None:
                # The SDK refuses negative values in histograms: the sign is an attribute.
                direction = "too_low" if error_ms > 0 else "too_high"
                cell = self._error_cell(target, direction, endpoint, now_ns)
                cell.record(abs(error_ms) / 1000, moment)

    def _record_decision(
        self, decision: Decision, policy: str, moment: Moment, now_ns: int
    ) -> None:
        for pick in decision.picks:
            key = policy, pick.role
            if key not in self._decisions:
                attributes: dict[str, str | int] = {semconv.DECISION_ROLE: pick.role}
                if policy:
                    bounded = self._values[semconv.ROUTE_POLICY].bound(policy, now_ns)
                    attributes[semconv.ROUTE_POLICY] = bounded
                self._decisions[key] = (
                    self._instruments.margin.cell(attributes),
                    self._instruments.regret.cell(attributes),
                )
            margin, regret = self._decisions[key]
            if pick.margin is not None:
                margin.record(max(0.0, pick.margin), moment)
            if pick.regret_ms is not None:
                regret.record(pick.regret_ms / 1000, moment)

    def _series_of(self, record: LifecycleRecord, now_ns: int) -> _Series:
        leader = None if record.selected_route is None else record.selected_route.leader
        key = (
            record.model,
            record.operation,
            record.provider,
            record.outcome.value,
            None if record.error is None else record.error.type,
            None if leader is None else (leader.address, leader.port, leader.id, leader.name),
            () if record.labels is UNSET else tuple(map(record.labels.get, self._labels)),
        )
        series = self._series.get(key)
        if series is None:
            series = self._new_series(record, leader, now_ns)
            if len(self._series) >= _MAX_KEPT:
                self._series.clear()
            self._series[key] = series
        return series

    def _new_series(
        self, record: LifecycleRecord, leader: EndpointSnapshot | None, now_ns: int
    ) -> _Series:
        attributes: dict[str, str | int] = {}
        is_served = leader is not None and record.outcome is Outcome.COMPLETED
        for name, value in (
            (semconv.REQUEST_MODEL, record.model),
            (semconv.OPERATION_NAME, record.operation),
            (semconv.PROVIDER_NAME, record.provider),
        ):
            if value:
                # Clients may ask for any model: only what an engine has served is told apart.
                is_known = name != semconv.REQUEST_MODEL or is_served
                attributes[name] = self._values[name].bound(value, now_ns, let_in=is_known)
        if leader is not None and leader.address:
            if self._bound_endpoint(leader, now_ns) is OTHER:
                attributes[semconv.SERVER_ADDRESS] = OTHER
            else:
                attributes[semconv.SERVER_ADDRESS] = leader.address
                if leader.port.isdecimal():
                    attributes[semconv.SERVER_PORT] = int(leader.port)
        labels: dict[str, str | int] = {}
        recorded = {} if record.labels is UNSET else record.labels
        for name in filter(recorded.__contains__, self._labels):
            bounded = self._values[semconv.LABEL + name]
            labels[semconv.LABEL + name] = bounded.bound(recorded[name], now_ns, let_in=is_served)
        error_type = None
        if record.error is not None and record.actual.e2e_ms is not None:
            error_type = self._values[semconv.ERROR_TYPE].bound(record.error.type, now_ns)
        return _Series(self._instruments, attributes, record.outcome.value, error_type, labels)

    def _error_cell(
        self, target: str, direction: str, endpoint: EndpointSnapshot, now_ns: int
    ) -> HistogramCell:
        key = (target, direction, endpoint.id, endpoint.name)
        cell = self._errors.get(key)
        if cell is None:
            cell = self._errors[key] = self._instruments.prediction_error.cell(
                {
                    semconv.PREDICTION_TARGET: target,
                    semconv.PREDICTION_DIRECTION: direction,
                    semconv.ENDPOINT_ID: self._bound_endpoint(endpoint, now_ns),
                }
            )
        return cell

    def _bound_endpoint(self, endpoint: EndpointSnapshot, now_ns: int) -> str:
        return self._values[semconv.ENDPOINT_ID].bound(endpoint.label, now_ns)

    def _forget_cells(self) -> None:
        self._series.clear()
        self._errors.clear()
        self._decisions.clear()
