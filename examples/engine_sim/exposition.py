"""Metrics in the Prometheus text format: vLLM's own, and those of the Ascend npu-exporter."""

from __future__ import annotations

import random
import time

from engine_sim.config import EngineConfig
from engine_sim.engine import Load

HBM_TOTAL_MB = 65536
HBM_WEIGHTS_PERCENT = 30.0  # model weights occupy memory whatever the load


def vllm_metrics(config: EngineConfig, load: Load) -> str:
    """Return the part of vLLM's `/metrics` that routers read."""
    model = f'engine="0",model_name="{config.model}"'
    cache = f'block_size="{config.block_size}",num_gpu_blocks="{config.cache_blocks}"'
    lora = 'max_lora="0",running_lora_adapters="",waiting_lora_adapters=""'
    rows = [
        ("num_requests_running", "gauge", "Number of requests in model execution batches.",
         model, float(load.running)),
        ("num_requests_waiting", "gauge", "Number of requests waiting to be processed.",
         model, float(load.waiting)),
        ("kv_cache_usage_perc", "gauge", "KV-cache usage. 1 means 100 percent usage.",
         model, load.kv_cache_usage),
        ("prefix_cache_queries_total", "counter", "Prefix cache queries, in tokens.",
         model, float(load.prefix_cache_queries)),
        ("prefix_cache_hits_total", "counter", "Prefix cache hits, in tokens.",
         model, float(load.prefix_cache_hits)),
        ("cache_config_info", "gauge", "Information of the LLMEngine CacheConfig.",
         f'{cache},engine="0"', 1.0),
        ("lora_requests_info", "gauge", "Running stats on lora requests.",
         lora, time.time()),
    ]  # fmt: skip
    return "".join(
        f"# HELP vllm:{name} {text}\n# TYPE vllm:{name} {kind}\nvllm:{name}{{{labels}}} {value}\n"
        for name, kind, text, labels, value in rows
    )


def npu_metrics(config: EngineConfig, load: Load, jitter: random.Random) -> str:
    """Return npu-exporter's metrics for this engine's chips."""
    chips = npu_values(config, load, jitter)
    helps = {
        "utilization": "the ai core utilization",
        "hbm_utilization": "the npu hbm utilization",
        "hbm_bandwidth_utilization": "the npu hbm bandwidth util rate",
        "hbm_used_memory": "the npu hbm used memory",
        "hbm_total_memory": "the npu hbm total memory",
    }
    timestamp = int(time.time() * 1000)
    lines: list[str] = []
    for name, text in helps.items():
        full_name = f"npu_chip_info_{name}"
        lines += [f"# HELP {full_name} {text}", f"# TYPE {full_name} gauge"]
        lines += [
            f"{full_name}{{{_chip_labels(config, chip)}}} {values[name]} {timestamp}"
            for chip, values in enumerate(chips)
        ]
    return "".join(f"{line}\n" for line in lines)


def npu_values(config: EngineConfig, load: Load, jitter: random.Random) -> list[dict[str, float]]:
    """Return the values of each chip by name; utilization, in percent, follows the load."""
    batch = load.running / config.max_running
    core = 90.0 if load.prefilling else 60.0 * batch
    memory = HBM_WEIGHTS_PERCENT + (95.0 - HBM_WEIGHTS_PERCENT) * load.kv_cache_usage
    bandwidth = 85.0 * min(1.0, batch * 1.5)
    return [
        {
            "utilization": _percent(core, jitter),
            "hbm_utilization": _percent(memory, jitter),
            "hbm_bandwidth_utilization": _percent(bandwidth, jitter),
            "hbm_used_memory": round(HBM_TOTAL_MB * memory / 100),
            "hbm_total_memory": HBM_TOTAL_MB,
        }
        for _ in range(config.npus)
    ]


def _percent(value: float, jitter: random.Random) -> int:
    if value == 0:
        return 0
    return round(min(100.0, max(0.0, value + jitter.uniform(-3, 3))))


def _chip_labels(config: EngineConfig, chip: int) -> str:
    return (
        f'container_name="vllm",id="{chip}",model_name="910B3-Ascend-V1",'
        f'namespace="{config.namespace}",pcie_bus_info="0000:{0xC1 + chip:02X}:00.0",'
        f'pod_name="{config.pod}",vdie_id="A1B2C3D4-{chip:08X}-00000000-00000000-00000000"'
    )
