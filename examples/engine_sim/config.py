"""The settings of one simulated engine: identity, speed and size."""

from __future__ import annotations

from dataclasses import dataclass

ROLES = ("aggregated", "prefill", "decode", "leader")


@dataclass(frozen=True)
class EngineConfig:
    """Settings of one engine; `__main__` documents them as command line options."""

    name: str = "engine-0"
    namespace: str = "default"
    pod: str = "engine-0"
    role: str = "aggregated"
    model: str = "Qwen/Qwen3-8B"
    prefill_tokens_per_second: float = 20_000.0
    tpot_ms: float = 10.0
    max_running: int = 16
    cache_blocks: int = 2_000
    block_size: int = 512
    npus: int = 2
    time_scale: float = 1.0
    tokens_per_chunk: int = 1
    seed: int = 0
