"""SGLang, `/metrics`; served only with `--enable-metrics`.

Names: `python/sglang/srt/metrics/collector.py`. If there are several ranks, the scheduler's series
name the rank in `dp_rank`. With priority scheduling the total is the series with an empty
`priority`. `sglang:cache_hit_rate` is not read: SGLang resets it to 0 whenever it reports a decode
batch.
"""

from __future__ import annotations

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
    size,
)
from otel_lifecycle.state.exposition import Sample, SampleReader

_RUNNING = "sglang:num_running_reqs"
_WAITING = "sglang:num_queue_reqs"
_KV_CACHE = "sglang:token_usage"
_CAPACITY = "sglang:max_total_num_tokens"
_PAGE_SIZE = "sglang:page_size"
_NUM_PAGES = "sglang:num_pages"
_CACHE_CONFIG = "sglang:cache_config_info"  # until 0.5.10, instead of these two
_LORA_SLOTS = "sglang:lora_pool_slots_total"
_CACHED = "sglang:cached_tokens_total"
_PROMPT = "sglang:prompt_tokens_total"
_COUNTERS = (_CACHED, _PROMPT)
READER = SampleReader(
    [
        _RUNNING,
        _WAITING,
        _KV_CACHE,
        _CAPACITY,
        _PAGE_SIZE,
        _NUM_PAGES,
        _CACHE_CONFIG,
        _LORA_SLOTS,
        *_COUNTERS,
    ]
)


def read(exposition: bytes, scraped_at: float) -> Ranks:
    """Return the metrics of each rank; see `otel_lifecycle.state.engines.read`."""
    samples = filter(_is_whole, READER.read(exposition))
    return read_ranks(samples, "dp_rank", _metrics, scraped_at)


def _is_whole(sample: Sample) -> bool:
    """Return whether a gauge is the total, not the value of one priority."""
    return sample.name in _COUNTERS or not sample.labels.get("priority")


def _metrics(series: Series) -> EndpointMetrics:
    page_size = size(series, _PAGE_SIZE) or label_size(series, _CACHE_CONFIG, "page_size")
    num_pages = size(series, _NUM_PAGES) or label_size(series, _CACHE_CONFIG, "num_pages")
    return EndpointMetrics(
        running_requests=count(series, _RUNNING),
        waiting_requests=count(series, _WAITING),
        kv_cache_usage=fraction(series, _KV_CACHE),
        kv_cache_max_token_capacity=size(series, _CAPACITY) or product(page_size, num_pages),
        cache_block_size=page_size,
        cache_num_blocks=num_pages,
        # The counter has labels, so it has no series before the first hit.
        prefix_cache_hit_rate=ratio(series, _CACHED, _PROMPT, if_missing=0.0),
        max_active_models=count(series, _LORA_SLOTS),
    )
