"""MindIE (MindIE-LLM, and the coordinator of MindIE Motor), `/metrics` on `metricsPort`.

Names: "API for Querying Service Management and Control Metrics (Prometheus Format)" of MindIE's
documentation. It is served only with `MIES_SERVICE_MONITOR_MODE=1`. Names have no prefix. MindIE
does not report block sizes, block counts, adapters and ranks.
"""

from __future__ import annotations

from otel_lifecycle.model import EndpointMetrics
from otel_lifecycle.state.engines.series import Ranks, Series, count, fraction, ratio, read_ranks
from otel_lifecycle.state.exposition import SampleReader

_RUNNING = "num_requests_running"
_WAITING = "num_requests_waiting"
_KV_CACHE = "npu_cache_usage_perc"
_MATCHED = "npu_radix_match_hit_num"
_COMPARED = "all_radix_match_num"
_HIT_RATE = "npu_prefix_cache_hit_rate"
READER = SampleReader([_RUNNING, _WAITING, _KV_CACHE, _MATCHED, _COMPARED, _HIT_RATE])


def read(exposition: bytes, scraped_at: float) -> Ranks:
    """Return the metrics under the rank `""`; see `otel_lifecycle.state.engines.read`."""
    return read_ranks(READER.read(exposition), "", _metrics, scraped_at)


def _metrics(series: Series) -> EndpointMetrics:
    counted = _COMPARED in series  # else an older release, which reports only the rate
    return EndpointMetrics(
        running_requests=count(series, _RUNNING),
        waiting_requests=count(series, _WAITING),
        kv_cache_usage=fraction(series, _KV_CACHE),
        prefix_cache_hit_rate=(
            ratio(series, _MATCHED, _COMPARED) if counted else fraction(series, _HIT_RATE)
        ),
    )
