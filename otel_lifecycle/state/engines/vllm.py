"""vLLM, `/metrics`.

Names: `vllm/v1/metrics/loggers.py`, and `vllm/engine/metrics.py` in the releases with V0. Every
series of V1 names its data-parallel rank in the label `engine`; V0 has no ranks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from otel_lifecycle.model import EndpointMetrics
from otel_lifecycle.state.engines.series import (
    Ranks,
    Series,
    count,
    fraction,
    label_size,
    product,
    ratio,
    read_ranks,
)
from otel_lifecycle.state.exposition import SampleReader

_RUNNING = "vllm:num_requests_running"
_WAITING = "vllm:num_requests_waiting"
_KV_CACHE = ("vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc")  # renamed in 0.9
_CACHE_CONFIG = "vllm:cache_config_info"
_LORA = "vllm:lora_requests_info"
_QUERIES = "vllm:prefix_cache_queries_total"
_HITS = "vllm:prefix_cache_hits_total"
_OLD_QUERIES = "vllm:gpu_prefix_cache_queries_total"
_OLD_HITS = "vllm:gpu_prefix_cache_hits_total"
_V0_HIT_RATE = "vllm:gpu_prefix_cache_hit_rate"  # -1 if prefix caching is off
READER = SampleReader(
    [
        _RUNNING,
        _WAITING,
        *_KV_CACHE,
        _CACHE_CONFIG,
        _LORA,
        _QUERIES,
        _HITS,
        _OLD_QUERIES,
        _OLD_HITS,
        _V0_HIT_RATE,
    ]
)


def read(exposition: bytes, scraped_at: float) -> Ranks:
    """Return the metrics of each rank; see `otel_lifecycle.state.engines.read`."""
    return read_ranks(READER.read(exposition), "engine", _metrics, scraped_at)


def _metrics(series: Series) -> EndpointMetrics:
    block_size = label_size(series, _CACHE_CONFIG, "block_size")
    num_blocks = label_size(series, _CACHE_CONFIG, "num_gpu_blocks")
    # If several kinds of layers share the blocks, the product is not the capacity.
    capacity = label_size(series, _CACHE_CONFIG, "kv_cache_size_tokens")
    hit_rate = ratio(series, _HITS, _QUERIES)
    if hit_rate is None:
        hit_rate = ratio(series, _OLD_HITS, _OLD_QUERIES)
    if hit_rate is None:
        hit_rate = fraction(series, _V0_HIT_RATE)
    lora = _lora(series)
    return EndpointMetrics(
        running_requests=count(series, _RUNNING),
        waiting_requests=count(series, _WAITING),
        kv_cache_usage=fraction(series, *_KV_CACHE),
        kv_cache_max_token_capacity=capacity or product(block_size, num_blocks),
        cache_block_size=block_size,
        cache_num_blocks=num_blocks,
        prefix_cache_hit_rate=hit_rate,
        active_models=_adapters(lora.get("running_lora_adapters", "")),
        waiting_models=_adapters(lora.get("waiting_lora_adapters", "")),
        max_active_models=_max_lora(lora.get("max_lora", "")),
    )


def _lora(series: Series) -> Mapping[str, str]:
    """Return the labels of the newest state; older states stay, with their time as value."""
    states = [sample for sample in series.get(_LORA, []) if math.isfinite(sample.value)]
    return max(states, key=lambda sample: sample.value).labels if states else {}


def _adapters(names: str) -> dict[str, int]:
    """Return a set as a dictionary of zeros, as the Gateway API Inference Extension does."""
    return {name.strip(): 0 for name in names.split(",") if name.strip()}


def _max_lora(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= 9 else None
