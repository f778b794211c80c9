"""The engines' values at the last scrape."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class EngineStats:
    num_running_requests: int = 0
    num_queuing_requests: int = 0
    gpu_prefix_cache_hit_rate: float = 0.0
    gpu_prefix_cache_hits_total: int = 0
    gpu_prefix_cache_queries_total: int = 0
    gpu_cache_usage_perc: float = 0.0


class EngineStatsScraper:
    def __init__(self, engine_stats: dict[str, EngineStats]) -> None:
        self.engine_stats = engine_stats

    def get_engine_stats(self) -> dict[str, EngineStats]:
        return self.engine_stats.copy()


_scraper = EngineStatsScraper({})


def initialize_engine_stats_scraper(engine_stats: dict[str, EngineStats]) -> EngineStatsScraper:
    global _scraper
    _scraper = EngineStatsScraper(engine_stats)
    return _scraper


def get_engine_stats_scraper() -> EngineStatsScraper:
    return _scraper
