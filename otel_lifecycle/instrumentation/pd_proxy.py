"""Instruments prefill/decode proxies.

They are scripts that people copy and change: vllm-ascend's load balancer, vLLM's toy proxy and
demo, LMCache's two proxies, and the mini load balancer of SGLang and vLLM. So they are recognised
by their structure, wherever it is found, and mostly it is found in `__main__`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from operator import attrgetter
from types import ModuleType
from typing import Any

from opentelemetry.instrumentation.utils import unwrap

from otel_lifecycle.instrumentation import pd_calls
from otel_lifecycle.instrumentation.base import Wrapper
from otel_lifecycle.instrumentation.enriching import EnrichingInstrumentor
from otel_lifecycle.instrumentation.routing import DECODE, PREFILL
from otel_lifecycle.runtime.logs import get_logger

_logger = get_logger(__name__)

_PREFILLS = ("send_request_to_service", "send_request_to_prefiller")
_DECODES = ("send_request_to_decoder",)
_STREAMS = ("stream_service_response", "stream_service_response_with_retry")
# What chooses the endpoints; each of these proxies has one.
_RANKERS = {
    "SharedProxyScheduler._pick_server": pd_calls.picking_from_pools,
    "ProxyState.select_prefiller": pd_calls.picking_from_state(PREFILL),
    "ProxyState.select_decoder": pd_calls.picking_from_state(DECODE),
}
_PICKERS = {
    "get_next_client": pd_calls.next_client,
    "round_robin_pick_clients": pd_calls.picked_clients,
    "pick_up_clients": pd_calls.picked_clients,
    "Proxy.schedule": pd_calls.scheduled,
    "MiniLoadBalancer.select_pair": pd_calls.selected_pair,
}


class PDProxyInstrumentor(EnrichingInstrumentor):
    """Tells prefill from decode, and adds policy and candidates.

    The names that a proxy's handlers look up are rebound when uvicorn has loaded the application:
    the script has run by then, and nothing has been served.
    """

    _adopted: list[tuple[ModuleType, list[str]]]

    def wrappers(self) -> Mapping[str, Mapping[str, Wrapper]]:
        """What is known by name is the server; for the rest see `structure`."""
        return {"uvicorn.config": {"Config.load": self._load}}

    def structure(self) -> Mapping[str, Wrapper]:
        """What wraps what in a module that turns out to be such a proxy."""
        decoding = self.before(pd_calls.sent(DECODE))
        return {
            **dict.fromkeys(_PREFILLS, self.before(pd_calls.sent(PREFILL))),
            **dict.fromkeys((*_DECODES, *_STREAMS), decoding),
            **{name: self.before(observe) for name, observe in _RANKERS.items()},
            **{name: self.after(observe) for name, observe in _PICKERS.items()},
        }

    def _instrument(self, **kwargs: Any) -> None:
        self._adopted = []
        super()._instrument(**kwargs)

    def _uninstrument(self, **kwargs: Any) -> None:
        for module, names in self._adopted:
            for name in names:
                owner, _, attribute = name.rpartition(".")
                unwrap(getattr(module, owner, module), attribute)
        super()._uninstrument(**kwargs)

    def _load(
        self, wrapped: Any, config: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        result = wrapped(*args, **kwargs)
        if self.is_instrumented_by_opentelemetry:
            try:
                for name in _module_names(config.app):
                    if name in sys.modules:
                        self._adopt(sys.modules[name])
            except Exception:
                _logger.debug("the application could not be looked at", exc_info=True)
        return result

    def _adopt(self, module: ModuleType) -> None:
        """Wraps what there is of the structure, if the module is a PD proxy."""
        if any(module is known for known, _ in self._adopted):
            return
        structure = self.structure()
        names = hooks_of(partial(_has, module))
        if not names:
            return
        self._adopted.append((module, names))
        self._wrap(module, {name: structure[name] for name in names})
        if not any(name in (*_RANKERS, *_PICKERS) for name in names):
            _logger.warning(
                "nothing known in %s chooses endpoints: policy and candidates are missing",
                module.__name__,
            )


def _module_names(app: Any) -> Iterator[str]:
    """Where an application may have its handlers, and what they call."""
    yield "__main__"
    if isinstance(app, str):
        yield app.partition(":")[0]
    else:
        yield from _handler_modules(app)


def _handler_modules(routed: Any) -> Iterator[str]:
    for route in getattr(routed, "routes", None) or ():
        endpoint = getattr(route, "endpoint", None)
        if endpoint is not None:
            yield endpoint.__module__
        # Newer versions of FastAPI keep an included router, instead of copying its routes.
        yield from _handler_modules(getattr(route, "original_router", route))


def hooks_of(has: Callable[[str], bool]) -> list[str]:
    """What would be wrapped in a module; nothing if it is no such proxy.

    Args:
        has: Whether the module has a function, or a method named `Class.method`.
    """
    names = [name for name in (*_PREFILLS, *_DECODES, *_STREAMS, *_RANKERS, *_PICKERS) if has(name)]
    is_proxy = (
        all(any(name in names for name in group) for group in (_PREFILLS, _STREAMS))
        # `Proxy` is a common name; this one forwards what it schedules.
        or ("Proxy.schedule" in names and has("Proxy.forward_request"))
        or "MiniLoadBalancer.select_pair" in names
    )
    return names if is_proxy else []


def _has(module: ModuleType, name: str) -> bool:
    try:
        return callable(attrgetter(name)(module))
    except AttributeError:
        return False
