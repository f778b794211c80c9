"""Instruments the router of the vLLM production stack.

It is recognised by its modules: the `vllm-router` on PyPI, which has the same name and the same
top-level package, is another router, written in Rust.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextvars import ContextVar
from typing import Any, NamedTuple

import msgspec

from otel_lifecycle.instrumentation.base import Wrapper
from otel_lifecycle.instrumentation.enriching import Call, EnrichingInstrumentor, Observer
from otel_lifecycle.instrumentation.routing import DECODE, PREFILL, Routing, endpoint_at
from otel_lifecycle.model import Candidate, EndpointMetrics, RouteEndpoint

_ENGINE_STATS = "vllm_router.stats.engine_stats"


class ProductionStackInstrumentor(EnrichingInstrumentor):
    """Adds policy, candidates, engine state, prefix match and the roles prefill and decode.

    The router's own count of requests in flight is not used: it never removes requests that end
    with a disconnect or a dropped connection.
    """

    def wrappers(self) -> Mapping[str, Mapping[str, Wrapper]]:
        """Return methods only: other modules may have imported functions by name already."""
        chosen = self.after(_chosen)
        return {
            "vllm_router.routers.routing_logic": {
                "RoundRobinRouter.route_request": chosen,
                "SessionRouter.route_request": chosen,
                "PrefixAwareRouter.route_request": chosen,
                "KvawareRouter.route_request": chosen,
                "KvawareRouter.query_manager": self.after(_looked_up),
                "DisaggregatedPrefillOrchestratedRouter.select_prefill_endpoint": self.after(
                    _selected(PREFILL)
                ),
                "DisaggregatedPrefillOrchestratedRouter.select_decode_endpoint": self.after(
                    _selected(DECODE)
                ),
            },
            "vllm_router.prefix.hashtrie": {"HashTrie.longest_prefix_match": self.after(_matched)},
            # Only its own module calls it, so wrapping it later has an effect too.
            "vllm_router.services.request_service.request": {
                "route_disaggregated_prefill_request": self.before(_fixed_pair)
            },
        }


class _Match(NamedTuple):
    """The fraction of a prompt that is cached, and on which URLs."""

    score: float
    is_at: Callable[[str], bool]


# Passes a lookup to the decision that follows it in the same task.
_match: ContextVar[_Match | None] = ContextVar("otel_lifecycle_prefix_match", default=None)


def _chosen(routing: Routing, call: Call) -> None:
    """Observe `route_request(endpoints, engine_stats, request_stats, request[, ...]) -> url`."""
    match, url = _match.get(), call.result
    _match.set(None)
    endpoints = call.argument(0, "endpoints")
    routing.policy = type(call.instance).__name__
    # A policy may fall back to an endpoint that did not match.
    routing.prefix_cache_score = _score(match, url)
    if match is not None:
        routing.decision_reason = "prefix_match" if routing.prefix_cache_score else "fallback"
    stats = call.argument(1, "engine_stats")
    routing.choose_from(_candidates(endpoints, stats, match))
    info = next((info for info in endpoints if info.url == url), None)
    routing.know(_route_endpoint(url, info, stats))


def _score(match: _Match | None, url: str) -> float | None:
    return match.score if match is not None and match.is_at(url) else None


def _candidates(
    infos: Iterable[Any], engine_stats: Any, match: _Match | None = None, leg: str = ""
) -> Iterator[Candidate]:
    """Return the endpoints that a policy chooses from; none of the policies scores them all."""
    for info in infos:
        known = _route_endpoint(info.url, info, engine_stats)
        yield Candidate(
            known.endpoint,
            prefix_cache_score=_score(match, info.url),
            role=leg,
            metrics=known.metrics,
        )


def _matched(_: Routing, call: Call) -> None:
    """Observe `longest_prefix_match(request, available_endpoints) -> (characters, urls)`."""
    prompt = call.argument(0, "request")
    length, urls = call.result
    if prompt:
        # It counts whole chunks, so the length may exceed that of the prompt.
        _match.set(_Match(min(1.0, length / len(prompt)), urls.__contains__))


def _looked_up(routing: Routing, call: Call) -> None:
    """Observe `query_manager(message)`, which returns the matched tokens by instance."""
    tokens = getattr(call.argument(0, "msg"), "tokens", None)
    if not tokens:
        return
    routing.input_tokens = len(tokens)
    found = call.result.layout_info
    if found:
        instance, (_, matched) = next(iter(found.items()))
        urls: dict[str, str] = call.instance.instance_id_to_ip  # may be filled after the lookup

        def is_at(url: str) -> bool:
            return urls.get(instance) == url

        _match.set(_Match(min(1.0, matched / len(tokens)), is_at))


def _selected(leg: str) -> Observer:
    """Observe `select_..._endpoint(endpoints) -> endpoint`, called for both legs first."""

    def observe(routing: Routing, call: Call) -> None:
        routing.policy = type(call.instance).__name__
        routing.choose_from(_candidates(call.args[0], _engine_stats(), leg=leg))
        info = call.result
        routing.plan(leg, _route_endpoint(info.url, info, _engine_stats()))

    return observe


def _fixed_pair(routing: Routing, call: Call) -> None:
    """Observe `route_disaggregated_prefill_request(request, ...)`: the pair never changes."""
    state = call.argument(0, "request").app.state
    routing.policy = type(state.router).__name__
    for leg, session in ((PREFILL, state.prefill_client), (DECODE, state.decode_client)):
        url = str(session._base_url).rstrip("/")
        routing.plan(leg, _route_endpoint(url, None, _engine_stats()))


def _engine_stats() -> Any:
    """Return the router's last scrape, by URL; None if it has no scraper."""
    try:
        return sys.modules[_ENGINE_STATS].get_engine_stats_scraper().get_engine_stats()
    except Exception:
        return None


def _route_endpoint(url: str, info: Any, engine_stats: Any) -> RouteEndpoint:
    endpoint = endpoint_at(url)
    stats = None if engine_stats is None else engine_stats.get(url)
    pod_name = getattr(info, "pod_name", None)
    if pod_name:
        namespace = getattr(info, "namespace", None) or ""
        endpoint = msgspec.structs.replace(endpoint, namespace=namespace, pod_name=pod_name)
    if stats is None:
        return RouteEndpoint(endpoint)
    return RouteEndpoint(
        endpoint,
        EndpointMetrics(
            running_requests=stats.num_running_requests,
            waiting_requests=stats.num_queuing_requests,
            # The router reads an old metric name: for newer vLLM versions it always reports 0.
            kv_cache_usage=stats.gpu_cache_usage_perc or None,
        ),
    )
