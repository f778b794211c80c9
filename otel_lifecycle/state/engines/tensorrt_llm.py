"""TensorRT-LLM: `trtllm-serve` (`/prometheus/metrics`), and Triton's backend (`/metrics`).

Names: `tensorrt_llm/metrics/collector.py`, and the `nv_trt_llm_*` families of Triton's backend,
whose label says what a sample counts. Neither names ranks: with attention data parallelism
`trtllm-serve` reports only rank 0.
"""

from __future__ import annotations

from otel_lifecycle.model import EndpointMetrics
from otel_lifecycle.state.engines.series import (
    Ranks,
    Series,
    count,
    fraction,
    product,
    ratio,
    read_ranks,
    size,
)
from otel_lifecycle.state.exposition import Sample, SampleReader

_RUNNING = "trtllm_num_requests_running"
_WAITING = "trtllm_num_requests_waiting"
_KV_CACHE = "trtllm_kv_cache_utilization"
_BLOCK_SIZE = "trtllm_kv_cache_tokens_per_block"
_NUM_BLOCKS = "trtllm_kv_cache_max_blocks"
_USED_BLOCKS = "trtllm_kv_cache_used_blocks"
_HIT_RATE = "trtllm_kv_cache_hit_rate"

# Maps Triton's family and label value to the equivalent metric of `trtllm-serve`.
_TRITON_REQUESTS = "nv_trt_llm_request_metrics"
_TRITON_BLOCKS = "nv_trt_llm_kv_cache_block_metrics"
_TRITON = {
    (_TRITON_REQUESTS, "scheduled"): _RUNNING,
    (_TRITON_REQUESTS, "waiting"): _WAITING,
    (_TRITON_BLOCKS, "fraction"): _KV_CACHE,
    (_TRITON_BLOCKS, "tokens_per"): _BLOCK_SIZE,
    (_TRITON_BLOCKS, "max"): _NUM_BLOCKS,
    (_TRITON_BLOCKS, "used"): _USED_BLOCKS,
}
_TRITON_LABELS = {_TRITON_REQUESTS: "request_type", _TRITON_BLOCKS: "kv_cache_block_type"}

READER = SampleReader(
    [
        _RUNNING,
        _WAITING,
        _KV_CACHE,
        _BLOCK_SIZE,
        _NUM_BLOCKS,
        _USED_BLOCKS,
        _HIT_RATE,
        *_TRITON_LABELS,
    ]
)


def read(exposition: bytes, scraped_at: float) -> Ranks:
    """Return the metrics under the rank `""`; see `otel_lifecycle.state.engines.read`."""
    return read_ranks(map(_named_alike, READER.read(exposition)), "", _metrics, scraped_at)


def _named_alike(sample: Sample) -> Sample:
    kind = sample.labels.get(_TRITON_LABELS.get(sample.name, ""), "")
    return sample._replace(name=_TRITON.get((sample.name, kind), sample.name))


def _metrics(series: Series) -> EndpointMetrics:
    block_size, num_blocks = size(series, _BLOCK_SIZE), size(series, _NUM_BLOCKS)
    usage = fraction(series, _KV_CACHE)
    return EndpointMetrics(
        running_requests=count(series, _RUNNING),
        waiting_requests=count(series, _WAITING),
        kv_cache_usage=ratio(series, _USED_BLOCKS, _NUM_BLOCKS) if usage is None else usage,
        kv_cache_max_token_capacity=product(block_size, num_blocks),
        cache_block_size=block_size,
        cache_num_blocks=num_blocks,
        prefix_cache_hit_rate=fraction(series, _HIT_RATE),
    )
