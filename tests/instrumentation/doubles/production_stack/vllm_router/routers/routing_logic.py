"""The policies."""

from __future__ import annotations

import itertools
from typing import Any

from fastapi import Request

from vllm_router.prefix.hashtrie import HashTrie
from vllm_router.service_discovery import EndpointInfo
from vllm_router.stats.engine_stats import EngineStats
from vllm_router.stats.request_stats import RequestStats


class RoutingInterface:
    max_instance_failover_reroute_attempts = 0
    session_key: str | None = None

    def extract_session_id(self, request: Request, request_json: dict[str, Any]) -> str | None:
        if self.session_key is None:
            return None
        return request.headers.get(self.session_key) or request_json.get(self.session_key)


class RoundRobinRouter(RoutingInterface):
    def __init__(self) -> None:
        self._turn = itertools.count()

    def route_request(
        self,
        endpoints: list[EndpointInfo],
        engine_stats: dict[str, EngineStats],
        request_stats: dict[str, RequestStats],
        request: Request,
    ) -> str:
        return endpoints[next(self._turn) % len(endpoints)].url


class SessionRouter(RoutingInterface):
    def __init__(self, session_key: str) -> None:
        self.session_key = session_key

    async def route_request(
        self,
        endpoints: list[EndpointInfo],
        engine_stats: dict[str, EngineStats],
        request_stats: dict[str, RequestStats],
        request: Request,
        request_json: dict[str, Any],
    ) -> str:
        session_id = self.extract_session_id(request, request_json) or ""
        return endpoints[sum(session_id.encode()) % len(endpoints)].url


class LookupMsg:
    def __init__(self, tokens: list[int], event_id: str) -> None:
        self.tokens = tokens
        self.event_id = event_id


class QueryInstMsg:
    def __init__(self, ip: str, event_id: str) -> None:
        self.ip = ip
        self.event_id = event_id


class KvawareRouter(RoutingInterface):
    def __init__(self, kv_manager: Any, kv_aware_threshold: int = 2000) -> None:
        self.kv_manager = kv_manager
        self.instance_id_to_ip: dict[str, str] = {}
        self.threshold = kv_aware_threshold

    def query_manager(self, msg: Any) -> Any:
        return self.kv_manager.handle_orchestration_message(msg)

    async def route_request(
        self,
        endpoints: list[EndpointInfo],
        engine_stats: dict[str, EngineStats],
        request_stats: dict[str, RequestStats],
        request: Request,
        request_json: dict[str, Any],
    ) -> str:
        tokens = [ord(character) for character in request_json["prompt"]]
        found = (await self.query_manager(LookupMsg(tokens, "Lookup"))).layout_info
        instance, (_, matched) = next(iter(found.items()), ("", ("", 0)))
        if matched < max(len(tokens) - self.threshold, 0) or not found:
            return endpoints[0].url
        for endpoint in endpoints:
            answer = await self.query_manager(QueryInstMsg(endpoint.url, "QueryInst"))
            self.instance_id_to_ip[answer.instance_id] = endpoint.url
        return self.instance_id_to_ip[instance]


class PrefixAwareRouter(RoutingInterface):
    def __init__(self, prefix_min_match_length: int = 0) -> None:
        self.hashtrie = HashTrie()
        self.prefix_min_match_length = prefix_min_match_length

    async def route_request(
        self,
        endpoints: list[EndpointInfo],
        engine_stats: dict[str, EngineStats],
        request_stats: dict[str, RequestStats],
        request: Request,
        request_json: dict[str, Any],
    ) -> str:
        prompt = request_json["prompt"]
        urls = {endpoint.url for endpoint in endpoints}
        length, matched = await self.hashtrie.longest_prefix_match(prompt, urls)
        if length < self.prefix_min_match_length:
            return endpoints[-1].url
        selected = min(matched)
        await self.hashtrie.insert(prompt, selected)
        return selected


class DisaggregatedPrefillRouter(RoutingInterface):
    pass


class DisaggregatedPrefillOrchestratedRouter(RoutingInterface):
    def __init__(self, prefill_model_labels: list[str], decode_model_labels: list[str]) -> None:
        self.prefill_model_labels = prefill_model_labels
        self.decode_model_labels = decode_model_labels

    def _find_endpoints(
        self, endpoints: list[EndpointInfo]
    ) -> tuple[list[EndpointInfo], list[EndpointInfo]]:
        return (
            [info for info in endpoints if info.model_label in self.prefill_model_labels],
            [info for info in endpoints if info.model_label in self.decode_model_labels],
        )

    def select_prefill_endpoint(self, prefiller_endpoints: list[EndpointInfo]) -> EndpointInfo:
        return prefiller_endpoints[0]

    def select_decode_endpoint(self, decoder_endpoints: list[EndpointInfo]) -> EndpointInfo:
        return decoder_endpoints[0]
