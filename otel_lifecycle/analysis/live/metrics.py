"""Reads the load and state of endpoints from the metrics that routers serve for Prometheus."""

from __future__ import annotations

import math
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import fmean
from typing import Final, TypeAlias
from urllib.parse import urlsplit

import urllib3

from otel_lifecycle.analysis.live.gauges import Gauges, State
from otel_lifecycle.analysis.routes import name_of_label
from otel_lifecycle.model import semconv
from otel_lifecycle.runtime.text import without_secrets
from otel_lifecycle.state.exposition import Sample, SampleReader

_SECONDS = 5.0  # for one answer
_MAX_BYTES = 16 << 20
_STALE_SECONDS = 15.0  # after this the values are not shown any more
_ACCEPT = "text/plain;version=0.0.4, application/openmetrics-text"

_Combine: TypeAlias = Callable[[Iterable[float]], float]
# Each router has its own load; of an engine and its devices all routers say the same.
_FIELDS: Final[Mapping[str, tuple[str, _Combine]]] = {
    semconv.METRIC_INFLIGHT_REQUESTS: ("requests", sum),
    semconv.METRIC_INFLIGHT_TOKENS: ("tokens", sum),
    semconv.METRIC_ENDPOINT_RUNNING: ("running", max),
    semconv.METRIC_ENDPOINT_WAITING: ("waiting", max),
    semconv.METRIC_ENDPOINT_KV_CACHE: ("kv_cache", max),
    semconv.METRIC_NPU_CORE: ("busy", fmean),
    semconv.METRIC_GPU_UTILIZATION: ("busy", fmean),
}


def _exposed(name: str) -> str:
    return name.replace(".", "_")


# Prometheus' exporters replace the dots and append the unit of a fraction.
_BY_NAME = {
    exposed: field
    for name, field in _FIELDS.items()
    for exposed in (name, _exposed(name), f"{_exposed(name)}_ratio")
}
_LABELS = (semconv.ENDPOINT_ID, _exposed(semconv.ENDPOINT_ID))
_reader = SampleReader(_BY_NAME)


def read_states(pages: Iterable[bytes]) -> dict[str, State]:
    """Return the state of each endpoint in some metrics pages, by its name."""
    values: defaultdict[str, defaultdict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for page in pages:
        for sample in _reader.read(page):
            label = _endpoint_of(sample)
            if label and 0 <= sample.value < math.inf:  # NaN is neither
                values[name_of_label(label)][_BY_NAME[sample.name][0]].append(sample.value)
    combine: dict[str, _Combine] = dict(_FIELDS.values())
    return {
        name: State(**{field: combine[field](found) for field, found in fields.items()})
        for name, fields in values.items()
    }


def _endpoint_of(sample: Sample) -> str:
    return next((sample.labels[name] for name in _LABELS if name in sample.labels), "")


class MetricsReader:
    """Reads metrics pages regularly, each on a daemon thread.

    A context manager, which waits until each page has been read once, or could not be.

    Args:
        urls: The pages.
        every: Seconds between two readings.

    Raises:
        ValueError: A URL is invalid.
    """

    def __init__(self, urls: Sequence[str], every: float) -> None:
        self._pages = [_Page(url, every) for url in urls]

    def __enter__(self) -> MetricsReader:
        for page in self._pages:
            threading.Thread(target=page.run, name="otel-lifecycle-metrics", daemon=True).start()
        for page in self._pages:
            page.tried.wait(2 * _SECONDS)
        return self

    def __exit__(self, *error: object) -> None:
        for page in self._pages:
            page.stopped.set()

    def gauges(self) -> Gauges:
        """Return what the pages said last."""
        bodies = [body for page in self._pages if (body := page.body()) is not None]
        return Gauges(read_states(bodies), [page.problem for page in self._pages if page.problem])


def _reason(error: Exception) -> str:
    """Return why there is no page; messages of urllib3 may contain the URL."""
    if isinstance(error, _RefusedError):
        return str(error)
    if isinstance(error, urllib3.exceptions.NewConnectionError):
        return "no connection"
    if isinstance(error, urllib3.exceptions.TimeoutError):
        return "no answer in time"
    return type(error).__name__


class _RefusedError(Exception):
    """An answer is not used; the text says why and holds no secrets."""


class _Page:
    def __init__(self, url: str, every: float) -> None:
        if not _is_url(url):
            raise ValueError(
                f"--metrics {without_secrets(url)}: not a URL such as http://localhost:9464/metrics"
            )
        self.tried = threading.Event()
        self.stopped = threading.Event()
        self.problem = ""
        self._url = url
        self._every = every
        self._pool = urllib3.PoolManager(timeout=_SECONDS, retries=False)
        self._body: bytes | None = None
        self._read_at = 0.0

    def body(self) -> bytes | None:
        """Return the last answer, unless it is old."""
        is_old = time.monotonic() - self._read_at > _STALE_SECONDS + self._every
        return None if is_old else self._body

    def run(self) -> None:
        """Read until stopped."""
        while not self.stopped.is_set():
            try:
                self._body, self._read_at = self._fetch(), time.monotonic()
                self.problem = ""
            except Exception as error:
                self.problem = f"{without_secrets(self._url)}: {_reason(error)}"
            self.tried.set()
            self.stopped.wait(self._every)

    def _fetch(self) -> bytes:
        response = self._pool.request(
            "GET", self._url, headers={"Accept": _ACCEPT}, redirect=False, preload_content=False
        )
        try:
            if response.status != 200:
                raise _RefusedError(f"HTTP {response.status}")
            body = response.read(_MAX_BYTES + 1)
        finally:
            response.close()
        if len(body) > _MAX_BYTES:
            raise _RefusedError(f"more than {_MAX_BYTES} bytes")
        return body


def _is_url(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False
