"""Endpoint snapshots: made safe once a scrape, and shared by the requests in between.

A router keeps an endpoint's metrics object until the next scrape, while hundreds of requests are
dispatched. Checking its numbers for each of them would cost more than all else on the request's
path; since the values are immutable, it is done when an object is seen for the first time.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from datetime import datetime

from otel_lifecycle.model import EndpointMetrics, MissingReason, RouteEndpoint, sanitize
from otel_lifecycle.model.features import POD_TYPES, MissingFeature, missing_metrics, missing_npu
from otel_lifecycle.model.route import EndpointSnapshot
from otel_lifecycle.model.timestamps import datetime_to_ns
from otel_lifecycle.tracking.endpoint_state import Collected

_NOTHING_KNOWN = EndpointMetrics()
_MAX_VIEWS = 10_000


class EndpointView:
    """An endpoint with its metrics and NPU state as they were given, made safe.

    Args:
        raw: What the router gave, completed by what was collected.
        judged_ns: When the status of the NPU state was found by the age of its values, which
            may be of different age; None where it was not.
    """

    __slots__ = (
        "_judged_ns",
        "_missing",
        "_raw",
        "address",
        "id",
        "identity",
        "metrics",
        "name",
        "npu",
        "observed",
        "port",
        "updated",
    )

    def __init__(self, raw: RouteEndpoint, judged_ns: int | None) -> None:
        endpoint = raw.endpoint
        self._raw = raw
        self._judged_ns = judged_ns
        self._missing: dict[tuple[str, bool, bool], list[MissingFeature]] = {}
        self.identity = endpoint.identity
        self.id = sanitize.text(endpoint.id)
        self.address = sanitize.text(endpoint.address)
        self.port = sanitize.text(endpoint.port)
        self.name = "" if endpoint.name == endpoint.pod_name else sanitize.text(endpoint.name)
        metrics = sanitize.metrics(raw.metrics)
        self.metrics = None if metrics == _NOTHING_KNOWN else metrics
        self.npu = sanitize.npu(raw.npu)
        self.updated = None if self.metrics is None else _to_ns(self.metrics.update_time)
        self.observed = None if self.npu is None else _to_ns(self.npu.observation_time)

    def shows(self, raw: RouteEndpoint, judged_ns: int | None) -> bool:
        """Whether it was made from the same values."""
        mine = self._raw
        return mine is raw or (
            self._judged_ns == judged_ns
            and (mine.metrics is raw.metrics or mine.metrics == raw.metrics)
            and (mine.npu is raw.npu or mine.npu == raw.npu)
            and (mine.endpoint is raw.endpoint or mine.endpoint == raw.endpoint)
        )

    def identify(self) -> EndpointSnapshot:
        """Who the endpoint is, and nothing else."""
        return EndpointSnapshot(self.id, self.address, self.port, self.name)

    def snapshot(self) -> EndpointSnapshot:
        """The whole snapshot, but for the load."""
        return EndpointSnapshot(
            self.id, self.address, self.port, self.name, self.metrics, None, self.npu
        )

    def missing(self, role: str, now_ns: int, stale_after_ns: int) -> list[MissingFeature]:
        """Which features of the predictor the endpoint itself cannot give, and why."""
        updated, observed = self.updated, self.observed
        old_metrics = updated is not None and 0 < stale_after_ns < now_ns - updated
        if self._judged_ns is not None:
            observed = self._judged_ns
        old_npu = observed is not None and 0 < stale_after_ns < now_ns - observed
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


class EndpointViews:
    """The newest view of each endpoint.

    Thread-safe without a lock: a lost update costs only another check.

    Args:
        collected: What is known, by its identity, of an endpoint besides what the router gives.
    """

    def __init__(self, collected: Callable[[Hashable], Collected | None]) -> None:
        self._collected = collected
        self._views: dict[Hashable, EndpointView] = {}

    def of(self, raw: RouteEndpoint) -> EndpointView:
        """The view of what the router gave; of metrics or NPU state it has not, the collected."""
        identity = raw.endpoint.identity
        judged_ns: int | None = None
        if raw.metrics is None or raw.npu is None:
            collected = self._collected(identity)
            if collected is not None:
                judged_ns = collected.judged_ns if raw.npu is None else None
                raw = RouteEndpoint(
                    raw.endpoint, raw.metrics or collected.metrics, raw.npu or collected.npu
                )
        view = self._views.get(identity)
        if view is None or not view.shows(raw, judged_ns):
            if len(self._views) >= _MAX_VIEWS:
                self._views.clear()
            view = self._views[identity] = EndpointView(raw, judged_ns)
        return view

    def forget(self, identity: Hashable) -> None:
        """Forgets an endpoint, by its `Endpoint.identity`."""
        self._views.pop(identity, None)


def _to_ns(moment: datetime | None) -> int | None:
    return None if moment is None else datetime_to_ns(moment)
