"""Converts scraped samples: vLLM's metrics, and those of the Ascend npu-exporter."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timezone
from math import isfinite

from hermes_router.endpoint import EndpointMetrics, NPUDevice, NPUState
from hermes_router.exposition import Sample

_RUNNING = "vllm:num_requests_running"
_WAITING = "vllm:num_requests_waiting"
_KV_CACHE_USAGE = "vllm:kv_cache_usage_perc"
_CACHE_CONFIG = "vllm:cache_config_info"
_LORA = "vllm:lora_requests_info"

_NPU_PREFIX = "npu_chip_info_"
_NPU_VALUES = ("utilization", "hbm_utilization", "hbm_bandwidth_utilization")


def engine_metrics(samples: Iterable[Sample], now: datetime) -> EndpointMetrics:
    """Return the metrics of one vLLM engine."""
    by_name = {sample.name: sample for sample in samples if isfinite(sample.value)}
    block_size = _label(by_name, _CACHE_CONFIG, "block_size")
    num_blocks = _label(by_name, _CACHE_CONFIG, "num_gpu_blocks")
    return EndpointMetrics(
        update_time=now,
        active_models=_adapters(by_name, "running_lora_adapters"),
        waiting_models=_adapters(by_name, "waiting_lora_adapters"),
        max_active_models=_integer(_label(by_name, _LORA, "max_lora")),
        running_requests_size=_count(by_name, _RUNNING),
        waiting_queue_size=_count(by_name, _WAITING),
        kv_cache_usage_percent=_value(by_name, _KV_CACHE_USAGE),
        kv_cache_max_token_capacity=_product(_integer(block_size), _integer(num_blocks)),
        cache_block_size=_integer(block_size),
        cache_num_blocks=_integer(num_blocks),
    )


def served_models(samples: Iterable[Sample]) -> frozenset[str]:
    """Return the models for which an engine has metrics."""
    return frozenset(
        sample.labels["model_name"]
        for sample in samples
        if sample.name == _RUNNING and "model_name" in sample.labels
    )


def npu_state(samples: Iterable[Sample], target: str, now: datetime) -> NPUState:
    """Return the state of the chips that an exporter reports."""
    chips: dict[str, dict[str, float]] = defaultdict(dict)
    observed: list[float] = []
    for sample in samples:
        value_name = sample.name.removeprefix(_NPU_PREFIX)
        if value_name in _NPU_VALUES and isfinite(sample.value) and "id" in sample.labels:
            chips[sample.labels["id"]][value_name] = sample.value
            if sample.timestamp_ms is not None:
                observed.append(sample.timestamp_ms / 1000)
    observed_at = datetime.fromtimestamp(min(observed), timezone.utc) if observed else now
    return npu_state_of(chips, target, observed_at)


def npu_state_of(
    chips: Mapping[str, Mapping[str, float]], target: str, observed_at: datetime
) -> NPUState:
    """Return the state of chips, from the values of each by its id."""
    core, memory, bandwidth = ([chip.get(name) for chip in chips.values()] for name in _NPU_VALUES)
    return NPUState(
        observation_time=observed_at,
        data_status=_status([*core, *memory, *bandwidth]),
        device_count=len(chips),
        ai_core_utilization_avg=_average(core),
        ai_core_utilization_max=_maximum(core),
        hbm_utilization_avg=_average(memory),
        hbm_utilization_max=_maximum(memory),
        hbm_bandwidth_utilization_avg=_average(bandwidth),
        hbm_bandwidth_utilization_max=_maximum(bandwidth),
        devices=[
            NPUDevice(target, device_id, *values)
            for device_id, *values in zip(chips, core, memory, bandwidth, strict=True)
        ],
    )


def _value(by_name: dict[str, Sample], name: str) -> float | None:
    sample = by_name.get(name)
    return None if sample is None else sample.value


def _count(by_name: dict[str, Sample], name: str) -> int | None:
    value = _value(by_name, name)
    return None if value is None else int(value)


def _label(by_name: dict[str, Sample], name: str, label: str) -> str | None:
    sample = by_name.get(name)
    return None if sample is None else sample.labels.get(label)


def _integer(text: str | None) -> int | None:
    return int(text) if text is not None and text.isdecimal() else None


def _product(left: int | None, right: int | None) -> int | None:
    return None if left is None or right is None else left * right


def _adapters(by_name: dict[str, Sample], label: str) -> dict[str, int]:
    """Return a set as a dictionary of zeros, as upstream does."""
    names = _label(by_name, _LORA, label) or ""
    return {name.strip(): 0 for name in names.split(",") if name.strip()}


def _status(values: Sequence[float | None]) -> str:
    if not values:
        return "missing"
    return "partial" if None in values else "fresh"


def _average(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _maximum(values: Sequence[float | None]) -> float | None:
    return max((value for value in values if value is not None), default=None)
