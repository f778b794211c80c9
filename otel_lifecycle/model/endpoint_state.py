"""An endpoint while the router uses it: its load, and its current metrics and NPU state.

A router keeps an endpoint's metrics object until the next scrape, while it dispatches hundreds of
requests. Checking the numbers for each request would cost more than all else on the request's path.
The values are immutable, so they are checked once, for a view that these requests share.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from datetime import datetime
from types import MappingProxyType
from typing import Any

import msgspec

from otel_lifecycle.model import sanitize
from otel_lifecycle.model.endpoint import Endpoint, EndpointMetrics, NPUState
from otel_lifecycle.model.features import (
    POD_TYPES,
    MissingFeature,
    MissingReason,
    missing_metrics,
    missing_npu,
)
from otel_lifecycle.model.route import EndpointSnapshot, RouteEndpoint
from otel_lifecycle.model.timestamps import datetime_to_ns

_NO_METRICS = EndpointMetrics()
_MAX_VIEWS = 100


class Collected(msgspec.Struct, frozen=True):
    """The state that was collected for an endpoint; immutable, replaced as a whole.

    Attributes:
        metrics: The metrics of its engine.
        npu: The state of its devices; its status already accounts for the age of each value.
        gpu: Whether the devices are GPUs.
        judged_ns: When the status was determined, Unix nanoseconds.
        models: The metrics of each model, if its engine serves several.
    """

    metrics: EndpointMetrics | None = None
    npu: NPUState | None = None
    gpu: bool = False
    judged_ns: int = 0
    models: Mapping[str, EndpointMetrics] = MappingProxyType({})


class EndpointState:
    """One endpoint, from its first use until it is deleted; created by the store.

    Counters change under the store's lock. Everything else is replaced as a whole, so it is read
    without a lock: a lost update costs only another check.

    Attributes:
        endpoint: The endpoint, with its current address.
        id: Its id, cleaned for the record.
        label: Its name in metrics.
        tokens: Prompt tokens in flight on it.
        requests: Requests in flight on it.
        prefill_tokens: Prompt tokens of those without a first output, less what is believed cached.
        listed: Whether it is among the store's endpoints: it has carried load, or was added. The
            leader of a pair carries no load.
        live: False once it is deleted.
        metrics: The router's last metrics of its engine.
        npu: The router's last state of its devices.
        collected: The state that was collected for it.
        scraped_metrics: The last scraped metrics of its engine; used only by the collection.
        scraped_models: The same by model, if the engine serves several.
        readings: The last readings of its devices, by exporter; used only by the collection.
        judged_at: When `collected` was computed from these, in seconds since the epoch; 0 before.
    """

    __slots__ = (
        "_views",
        "collected",
        "endpoint",
        "id",
        "judged_at",
        "label",
        "listed",
        "live",
        "metrics",
        "npu",
        "prefill_tokens",
        "readings",
        "requests",
        "scraped_metrics",
        "scraped_models",
        "tokens",
    )

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.id = sanitize.text(endpoint.id)
        self.label = sanitize.text(endpoint.label)
        self.tokens = 0
        self.requests = 0
        self.prefill_tokens = 0
        self.listed = False
        self.live = True
        self.metrics: EndpointMetrics | None = None
        self.npu: NPUState | None = None
        self.collected: Collected | None = None
        self.forget_scrapes()
        self._views: dict[str, EndpointView] = {}

    def forget_scrapes(self) -> None:
        """Remove the scraped values, but not the state collected from them."""
        self.scraped_metrics: EndpointMetrics | None = None
        self.scraped_models: Mapping[str, EndpointMetrics] = {}
        self.readings: dict[Any, Sequence[Any]] = {}
        self.judged_at = 0.0

    def view(self, raw: RouteEndpoint, model: object = "") -> EndpointView:
        """Return the cleaned values of the router, or collected ones if the router has none.

        Args:
            raw: The endpoint, with the router's values.
            model: The requested model: its metrics, if the engine reports several.
        """
        judged_ns: int | None = None
        served = ""
        collected = self.collected
        if collected is not None and (raw.metrics is None or raw.npu is None):
            judged_ns = collected.judged_ns if raw.npu is None else None
            metrics = raw.metrics or collected.metrics
            if raw.metrics is None and type(model) is str and model in collected.models:
                served, metrics = model, collected.models[model]
            raw = RouteEndpoint(raw.endpoint, metrics, raw.npu or collected.npu)
        view = self._views.get(served)
        if view is None or not view.shows(raw, judged_ns):
            if len(self._views) > _MAX_VIEWS:  # of models that have been unloaded
                self._views.clear()
            view = self._views[served] = EndpointView(self, raw, judged_ns)
        return view

    def delete(self) -> None:
        """Mark it as deleted; requests in flight on it continue."""
        self.live = False
        self._views = {}


class EndpointView:
    """An endpoint with its metrics and NPU state, cleaned for the record.

    Requests share it until the next scrape, including the attributes computed from it.

    Args:
        state: The endpoint.
        raw: The router's values, completed by collected ones.
        judged_ns: When the status of a collected NPU state was determined from the ages of its
            values; None if the state is the router's.

    Attributes:
        attributes: Span attributes of the endpoint, by role and settings; filled by the telemetry.
    """

    __slots__ = (
        "_judged_ns",
        "_missing",
        "_raw",
        "address",
        "attributes",
        "id",
        "metrics",
        "name",
        "npu",
        "observed_ns",
        "port",
        "state",
        "updated_ns",
    )

    def __init__(self, state: EndpointState, raw: RouteEndpoint, judged_ns: int | None) -> None:
        endpoint = raw.endpoint
        self.state = state
        self._raw = raw
        self._judged_ns = judged_ns
        self._missing: dict[tuple[str, bool, bool], list[MissingFeature]] = {}
        self.attributes: dict[Hashable, Any] = {}
        self.id = sanitize.text(endpoint.id)
        self.address = sanitize.text(endpoint.address)
        self.port = sanitize.text(endpoint.port)
        self.name = "" if endpoint.name == endpoint.pod_name else sanitize.text(endpoint.name)
        metrics = sanitize.metrics(raw.metrics)
        self.metrics = None if metrics == _NO_METRICS else metrics
        self.npu = sanitize.npu(raw.npu)
        self.updated_ns = None if self.metrics is None else _to_ns(self.metrics.update_time)
        self.observed_ns = None if self.npu is None else _to_ns(self.npu.observation_time)

    def shows(self, raw: RouteEndpoint, judged_ns: int | None) -> bool:
        """Return whether it was made from the same values."""
        mine = self._raw
        return mine is raw or (
            self._judged_ns == judged_ns
            and (mine.metrics is raw.metrics or mine.metrics == raw.metrics)
            and (mine.npu is raw.npu or mine.npu == raw.npu)
            and (mine.endpoint is raw.endpoint or mine.endpoint == raw.endpoint)
        )

    def identify(self) -> EndpointSnapshot:
        """Return a snapshot with only the identity."""
        return EndpointSnapshot(self.id, self.address, self.port, self.name)

    def snapshot(self) -> EndpointSnapshot:
        """Return the complete snapshot, except the load."""
        return EndpointSnapshot(
            self.id, self.address, self.port, self.name, self.metrics, None, self.npu
        )

    def missing(self, role: str, now_ns: int, stale_after_ns: int) -> list[MissingFeature]:
        """Return the predictor's features that this endpoint lacks, with the reasons."""
        updated_ns, observed_ns = self.updated_ns, self.observed_ns
        old_metrics = updated_ns is not None and 0 < stale_after_ns < now_ns - updated_ns
        if self._judged_ns is not None:
            observed_ns = self._judged_ns
        old_npu = observed_ns is not None and 0 < stale_after_ns < now_ns - observed_ns
        missing = self._missing.get((role, old_metrics, old_npu))
        if missing is None:
            reasons = [
                *missing_metrics(self._raw.metrics, self.metrics, stale=old_metrics),
                *missing_npu(self._raw.npu, self.npu, stale=old_npu),
            ]
            if not self.address:
                reasons.append(("serverIp", MissingReason.ADDRESS_MISSING))
            pod_type = POD_TYPES[role]
            missing = self._missing[(role, old_metrics, old_npu)] = [
                MissingFeature(pod_type, feature, reason) for feature, reason in reasons
            ]
        return missing


def _to_ns(moment: datetime | None) -> int | None:
    return None if moment is None else datetime_to_ns(moment)
