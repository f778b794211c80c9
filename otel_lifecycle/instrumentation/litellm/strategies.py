"""What LiteLLM's routing strategies compare: latencies, prices, tokens a minute, calls in flight.

They take the lowest, so scores are negative. `simple-shuffle` compares nothing.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from typing import Any, Final, TypeAlias

from otel_lifecycle.instrumentation.enriching import Call, Observer
from otel_lifecycle.instrumentation.routing import Routing, endpoint_at
from otel_lifecycle.model import Candidate

_Deployment: TypeAlias = Mapping[str, Any]

LATENCY: Final = "litellm.router_strategy.lowest_latency"
COST: Final = "litellm.router_strategy.lowest_cost"
USAGE: Final = "litellm.router_strategy.lowest_tpm_rpm_v2"
BUSY: Final = "litellm.router_strategy.least_busy"

_UNKNOWN_PRICE: Final = 5.0  # LiteLLM's own
_deployments: ContextVar[Sequence[_Deployment]] = ContextVar("otel_lifecycle_deployments")


def observers(module: str) -> Mapping[str, Observer]:
    """Return what observes the methods of a strategy's module.

    Which method counts the calls in flight depends on LiteLLM's version.
    """
    if module != BUSY:
        return _OBSERVERS[module]
    loaded = sys.modules.get(module)
    return next(
        (found for found in _OF_BUSY if all(_exists(loaded, name) for name in found)), _OF_BUSY[0]
    )


def considered(deployments: Sequence[_Deployment]) -> list[Candidate]:
    """Return deployments of which nothing was compared; none if one has no address."""
    return _candidates(deployments, lambda _: {})


def _latencies(routing: Routing, call: Call) -> None:
    """Observe `_get_available_deployments(group, deployments, messages, input, request, ...)`.

    It leaves the seconds it compared, by address, in the request's metadata.
    """
    request: Mapping[str, Any] = call.argument(4, "request_kwargs") or {}
    seconds: Mapping[str, float] = metadata_of(request).get("_latency_per_deployment") or {}

    def scores(deployment: _Deployment) -> Mapping[str, float]:
        latency = seconds.get(deployment["litellm_params"]["api_base"])
        return {} if latency is None else {"latency": 0 - latency}  # never -0.0

    routing.choose_from(_candidates(call.argument(1, "healthy_deployments"), scores))


def _prices(routing: Routing, call: Call) -> None:
    """Observe `async_get_available_deployments(group, deployments, ...)`, which compares dollars.

    A deployment's own prices of a token in and a token out come first, then those of its model.
    """
    module = sys.modules[COST]
    listed: Callable[[_Deployment], tuple[Any, Any]] = getattr(
        module, "_deployment_cost_map_rates", _listed_prices
    )

    def scores(deployment: _Deployment) -> Mapping[str, float]:
        price = 0.0
        for kind, rate in zip(("input", "output"), listed(deployment), strict=True):
            own = deployment["litellm_params"].get(f"{kind}_cost_per_token")
            price += own or (_UNKNOWN_PRICE if rate is None else rate)
        return {"cost": -price}

    routing.choose_from(_candidates(call.argument(1, "healthy_deployments"), scores))


def _listed_prices(deployment: _Deployment) -> tuple[Any, Any]:
    """Return what older versions look up."""
    model = deployment["litellm_params"].get("model")
    prices = sys.modules["litellm"].model_cost.get(model, {})
    return prices.get("input_cost_per_token"), prices.get("output_cost_per_token")


def _usage(routing: Routing, call: Call) -> None:
    """Observe `_return_potential_deployments(deployments, tokens, prompt, requests)`, by id."""
    tokens: Mapping[str, Any] = call.argument(1, "all_deployments")
    requests: Mapping[str, Any] = call.argument(3, "rpm_dict") or {}

    def scores(deployment: _Deployment) -> Mapping[str, float]:
        found = {"tpm": tokens.get(_id(deployment)), "rpm": requests.get(_id(deployment))}
        return {name: -value for name, value in found.items() if value is not None}

    routing.choose_from(_candidates(call.argument(0, "healthy_deployments"), scores))


def _in_flight_by_id(routing: Routing, call: Call) -> None:
    """Observe `_get_available_deployments(deployments, in_flight)` of older versions."""
    counts: Mapping[str, Any] = call.argument(1, "all_deployments")

    def scores(deployment: _Deployment) -> Mapping[str, float]:
        return {"requests": -counts.get(_id(deployment), 0)}  # none was sent there yet

    routing.choose_from(_candidates(call.argument(0, "healthy_deployments"), scores))


def _in_flight(routing: Routing, call: Call) -> None:
    """Observe `_least_busy(deployments, counts)`, in the same order."""
    _count(routing, call.argument(0, "healthy_deployments"), call.argument(1, "counts"))


def _selecting(_: Routing, call: Call) -> None:
    """Observe `_select(deployments, ...)`, which counts them while it is running."""
    _deployments.set(call.argument(0, "healthy_deployments"))


def _selected(routing: Routing, call: Call) -> None:
    """Observe `_least_busy_index(counts)`, called by `_select`."""
    _count(routing, _deployments.get(), call.argument(0, "counts"))


def _count(routing: Routing, deployments: Sequence[_Deployment], counts: Sequence[int]) -> None:
    by_id = {_id(one): count for one, count in zip(deployments, counts, strict=True)}
    routing.choose_from(_candidates(deployments, lambda one: {"requests": -by_id[_id(one)]}))


def _candidates(
    deployments: Sequence[_Deployment], scores: Callable[[_Deployment], Mapping[str, float]]
) -> list[Candidate]:
    """Return the deployments; none if one has no address, as providers in the cloud."""
    if not all(one["litellm_params"].get("api_base") for one in deployments):
        return []
    return list(_scored(deployments, scores))


def _scored(
    deployments: Sequence[_Deployment], scores: Callable[[_Deployment], Mapping[str, float]]
) -> Iterator[Candidate]:
    for deployment in deployments:
        parts = scores(deployment)
        endpoint = endpoint_at(deployment["litellm_params"]["api_base"])
        yield Candidate(endpoint, next(iter(parts.values()), None), parts)


def metadata_of(request: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the metadata that LiteLLM keeps with a request."""
    return request.get("litellm_metadata") or request.get("metadata") or {}


def _id(deployment: _Deployment) -> str:
    return deployment["model_info"]["id"]


def _exists(module: Any, name: str) -> bool:
    for part in name.split("."):
        module = getattr(module, part, None)
    return module is not None


_OBSERVERS: Final[Mapping[str, Mapping[str, Observer]]] = {
    LATENCY: {"LowestLatencyLoggingHandler._get_available_deployments": _latencies},
    COST: {"LowestCostLoggingHandler.async_get_available_deployments": _prices},
    USAGE: {"LowestTPMLoggingHandler_v2._return_potential_deployments": _usage},
}
_OF_BUSY: Final[Sequence[Mapping[str, Observer]]] = (
    {"LeastBusyLoggingHandler._select": _selecting, "_least_busy_index": _selected},
    {"_least_busy": _in_flight},
    {"LeastBusyLoggingHandler._get_available_deployments": _in_flight_by_id},
)
