"""Converts the metrics response of an engine to `EndpointMetrics`."""

from __future__ import annotations

from otel_lifecycle.state.engines import mindie, sglang, tensorrt_llm, vllm
from otel_lifecycle.state.engines.series import Ranks

__all__ = ["Ranks", "read"]

# MindIE's names have no prefix; only MindIE uses this name.
_ENGINES = (
    (b"\nvllm:", vllm.read),
    (b"\nsglang:", sglang.read),
    (b"\ntrtllm_", tensorrt_llm.read),
    (b"\nnv_trt_llm_", tensorrt_llm.read),
    (b"\nnpu_cache_usage_perc", mindie.read),
)


def read(exposition: bytes, scraped_at: float) -> Ranks:
    """Return the metrics of each data-parallel rank of an engine.

    The engine is recognised by the prefix of its metric names.

    Args:
        exposition: The body, in Prometheus' text format or OpenMetrics.
        scraped_at: Time of the scrape, in seconds since the epoch: the `update_time`.

    Returns:
        The metrics by rank, as the engine names it (`"0"`, `"1"`), or under `""` if it names no
        ranks; the same by model, if several share the port. Ranks without any known value are
        omitted. A value that is missing, malformed or out of range is unknown.
    """
    for prefix, read_engine in _ENGINES:
        if prefix in exposition or exposition.startswith(prefix[1:]):
            metrics = read_engine(exposition, scraped_at)
            if metrics or metrics.models:
                return metrics
    return Ranks()
