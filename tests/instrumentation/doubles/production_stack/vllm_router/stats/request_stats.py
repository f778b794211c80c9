"""The router's count of requests in flight; it never removes a broken request."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class RequestStats:
    qps: float
    ttft: float
    in_prefill_requests: int
    in_decoding_requests: int
    finished_requests: int


class RequestStatsMonitor:
    def __init__(self) -> None:
        self.decoding: dict[str, int] = {}

    def on_new_request(self, engine_url: str, request_id: str, timestamp: float) -> None:
        self.decoding[engine_url] = self.decoding.get(engine_url, 0) + 1

    def on_request_response(self, engine_url: str, request_id: str, timestamp: float) -> None:
        pass

    def on_request_complete(self, engine_url: str, request_id: str, timestamp: float) -> None:
        self.decoding[engine_url] -= 1

    def get_request_stats(self, current_time: float) -> dict[str, RequestStats]:
        return {url: RequestStats(1.0, 0.1, 0, 1000 + n, 0) for url, n in self.decoding.items()}
