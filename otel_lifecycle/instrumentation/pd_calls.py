"""Reads the calls inside prefill/decode proxies: who was chosen for what, out of how many."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from otel_lifecycle.instrumentation.enriching import Call, Observer
from otel_lifecycle.instrumentation.routing import DECODE, PREFILL, Routing, endpoint_at
from otel_lifecycle.model import Candidate, Endpoint, RouteEndpoint

_CACHED: Final = 0.3  # what a token in a prefill's KV cache counts


def sent(leg: str) -> Observer:
    """`send_request_to_...` and `stream_service_response`: the name tells the leg.

    Their first argument is the client, or a dict with it. LMCache's has prompts tokenized through
    the first, maybe by a decode engine; the prefill comes later, and corrects that.
    """

    def observe(routing: Routing, call: Call) -> None:
        client = call.args[0]
        if isinstance(client, dict):
            client = client["client"]  # pyright: ignore[reportUnknownVariableType]
        routing.plan(leg, _at(client))

    return observe


def picking_from_pools(routing: Routing, call: Call) -> None:
    """vllm-ascend's `SharedProxyScheduler._pick_server(role, load, ...)`, which adds the load."""
    role = call.argument(0, "role")
    pool = call.instance._pools[role]
    _ranked(
        routing,
        call.instance,
        str(getattr(role, "value", role)),
        [server for key, server in pool.servers.items() if key not in pool.tainted],
    )


def picking_from_state(leg: str) -> Observer:
    """vllm-ascend's older `ProxyState.select_prefiller` and `select_decoder(token_count)`."""

    def observe(routing: Routing, call: Call) -> None:
        state = call.instance
        kind = "prefillers" if leg == PREFILL else "decoders"
        servers, tainted = getattr(state, kind), getattr(state, f"tainted_{kind}", ())
        _ranked(routing, state, leg, [one for one in servers if one not in tainted])

    return observe


def _ranked(routing: Routing, scheduler: Any, leg: str, servers: Iterable[Any]) -> None:
    """vllm-ascend takes the server with the least work: tokens, and of a prefill what is cached."""
    routing.policy = type(scheduler).__name__
    routing.choose_from(
        Candidate(
            Endpoint(address=str(server.host), port=str(server.port)),
            -server.active_tokens - (_CACHED * server.active_kv_cache if leg == PREFILL else 0),
            {
                "active_tokens": -server.active_tokens,
                "active_kv_cache": -server.active_kv_cache,
            },
            role=leg,
        )
        for server in servers
    )


def next_client(routing: Routing, call: Call) -> None:
    """VLLM's `get_next_client(app, service_type)`."""
    routing.policy = "get_next_client"
    routing.candidates = _clients(call.args[0].state)


def picked_clients(routing: Routing, call: Call) -> None:
    """LMCache's `round_robin_pick_clients()` and `pick_up_clients(request)`, which may call it.

    Both return `([tokenization,] prefill, decode)`. The proxy of the multiprocess mode has only the
    first of them.
    """
    request = call.argument(0, "request")
    if request is not None:
        routing.candidates = _clients(request.app.state)
    routing.policy = routing.policy or (
        "round_robin_pick_clients" if request is None else "pick_up_clients"
    )
    prefill, decode = call.result[-2:]
    routing.plan(PREFILL, _at(prefill.client))
    routing.plan(DECODE, _at(decode.client))


def scheduled(routing: Routing, call: Call) -> None:
    """`Proxy.schedule(cycler, request_len) -> "host:port"` of vLLM's demo."""
    proxy, cycler = call.instance, call.argument(0, "cycler")
    routing.policy = type(proxy.scheduling_policy).__name__
    routing.candidates = len(proxy.prefill_instances) + len(proxy.decode_instances)
    leg = PREFILL if cycler is proxy.prefill_cycler else DECODE
    routing.plan(leg, RouteEndpoint(endpoint_at(call.result)))


def selected_pair(routing: Routing, call: Call) -> None:
    """`MiniLoadBalancer.select_pair() -> (prefill, bootstrap_port, decode)`."""
    balancer = call.instance
    routing.policy = type(balancer).__name__
    routing.candidates = len(balancer.prefill_urls) + len(balancer.decode_urls)
    prefill, _, decode = call.result
    routing.plan(PREFILL, RouteEndpoint(endpoint_at(prefill)))
    routing.plan(DECODE, RouteEndpoint(endpoint_at(decode)))


def _clients(state: Any) -> int:
    return len(state.prefill_clients) + len(state.decode_clients)


def _at(client: Any) -> RouteEndpoint:
    """The endpoint of an `httpx.AsyncClient`."""
    endpoint: Endpoint = endpoint_at(str(client.base_url))
    return RouteEndpoint(endpoint)
