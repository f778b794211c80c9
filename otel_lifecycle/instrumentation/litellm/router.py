"""Instruments LiteLLM: the proxy, and `litellm.Router` in any program.

It uses only what LiteLLM documents, a callback in `litellm.callbacks` and the methods of
`litellm.Router` that programs call, because internal names change from release to release.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any

from otel_lifecycle.instrumentation.base import Wrapper
from otel_lifecycle.instrumentation.enriching import EnrichingInstrumentor, Observer
from otel_lifecycle.instrumentation.http.current import current_exchange, current_routing
from otel_lifecycle.instrumentation.http.requests.inference_request import InferenceRequest
from otel_lifecycle.instrumentation.litellm import strategies
from otel_lifecycle.instrumentation.router_call import RouterCall, follow, follow_blocking
from otel_lifecycle.runtime.logs import get_logger

_logger = get_logger(__name__)

_ROUTER = "litellm.router"
_CALLBACKS = "litellm.integrations.custom_logger"


class LiteLLMInstrumentor(EnrichingInstrumentor):
    """Adds policy, candidates and LiteLLM's id, and follows calls of a `Router` without a proxy.

    LiteLLM rebuilds every answer: it ends a truncated stream properly, and fills in zeros if the
    engine sent no usage. So the engine's own answer is read.
    """

    _callback: Any = None

    def wrappers(self) -> Mapping[str, Mapping[str, Wrapper]]:
        """Return the router's constructor, its methods that call engines, and its strategies."""
        return {
            _ROUTER: {
                "Router.__init__": self._constructed,
                "Router.acompletion": self._called("chat", "messages", follow),
                "Router.atext_completion": self._called("text_completion", "prompt", follow),
                "Router.completion": self._called("chat", "messages", follow_blocking),
            },
            strategies.LATENCY: self._observed(strategies.LATENCY, self.after),
            strategies.COST: self._observed(strategies.COST, self.after),
            strategies.USAGE: self._observed(strategies.USAGE, self.before),
            strategies.BUSY: self._observed(strategies.BUSY, self.before),
        }

    def needs_tracker(self, module: str) -> bool:
        """Only the router does: strategies tell more of what it follows."""
        return module == _ROUTER

    def _observed(self, module: str, when: Callable[[Observer], Wrapper]) -> Mapping[str, Wrapper]:
        return {name: when(observe) for name, observe in strategies.observers(module).items()}

    def _uninstrument(self, **kwargs: Any) -> None:
        super()._uninstrument(**kwargs)
        callback, self._callback = self._callback, None
        litellm = sys.modules.get("litellm")
        if callback is not None and litellm is not None and callback in litellm.callbacks:
            litellm.callbacks.remove(callback)

    def _constructed(
        self, wrapped: Any, _router: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        result = wrapped(*args, **kwargs)
        # The proxy sets its own callbacks before it constructs its router.
        self._register()
        return result

    def _called(self, operation: str, prompt: str, follow_call: Callable[..., Any]) -> Wrapper:
        def wrapper(
            wrapped: Any, router: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
        ) -> Any:
            if self.tracker is None:
                return wrapped(*args, **kwargs)
            self._register()
            outer = current_exchange()
            if outer is not None and not outer.done:
                _note_policy(router)
                return wrapped(*args, **kwargs)
            request = InferenceRequest.of_call(
                _argument(args, kwargs, 0, "model"),
                _argument(args, kwargs, 1, prompt),
                streaming=kwargs.get("stream") is True,
            )
            call = RouterCall(self.tracker, operation, request, kwargs)
            call.routing.policy = _policy(router)
            return follow_call(call, wrapped, args, kwargs)

        return wrapper

    def _register(self) -> None:
        """Add the callback to LiteLLM's list, again if a program has replaced the list."""
        if self.tracker is None:
            return
        try:
            if self._callback is None:
                self._callback = _make_callback(self._filtered)
            callbacks = sys.modules["litellm"].callbacks
            if not any(callback is self._callback for callback in callbacks):
                callbacks.append(self._callback)
        except Exception:
            _logger.debug(
                "adding a callback to LiteLLM failed: candidates stay unknown", exc_info=True
            )

    def _filtered(self, deployments: Any, request: Any) -> None:
        """Observe the deployments from which LiteLLM is about to choose."""
        routing = None if self.tracker is None else current_routing()
        if routing is None:
            return
        try:
            routing.rebuilds_answers = True
            routing.candidates = len(deployments)
            given: Mapping[str, Any] = request or {}
            decision = strategies.metadata_of(given).get("routing_decision")
            if decision:  # why a group was chosen; never what it quotes of the prompt
                routing.decision_reason = decision.get("cause") or ""
                routing.choose_from(strategies.considered(deployments))
            # The proxy's answer has the first as `x-litellm-call-id`; a program's has the second.
            routing.request_id = given.get("litellm_call_id") or given.get("litellm_trace_id") or ""
            if not routing.policy:
                routing.policy = _policy(_proxy_router())
        except Exception:
            _logger.debug("observing a choice failed: it is not tracked", exc_info=True)


def _make_callback(filtered: Callable[[Any, Any], None]) -> Any:
    base = sys.modules[_CALLBACKS].CustomLogger
    if not hasattr(base, "async_filter_deployments"):
        _logger.warning(
            "%s.CustomLogger.async_filter_deployments does not exist: candidates stay unknown",
            _CALLBACKS,
        )

    class LifecycleLogger(base):
        """Observes the deployments that LiteLLM chooses from; never reads a prompt."""

        async def async_filter_deployments(
            self,
            model: Any,
            healthy_deployments: Any,
            messages: Any,
            request_kwargs: Any = None,
            parent_otel_span: Any = None,
        ) -> Any:
            filtered(healthy_deployments, request_kwargs)
            return healthy_deployments

    return LifecycleLogger()


def _note_policy(router: Any) -> None:
    routing = current_routing()
    if routing is not None:
        routing.policy = _policy(router)


def _policy(router: Any) -> str:
    """Return the routing strategy; empty if there are several, or it is the program's own."""
    try:
        if router is None or "async_get_available_deployment" in vars(router):
            return ""
        if hasattr(router, "registry"):  # from 1.109 on
            groups, settings = router.registry().routing_groups(), router.settings()
        else:
            groups, settings = getattr(router, "routing_groups", None), router
        strategy = settings.routing_strategy
        return "" if groups else str(getattr(strategy, "value", strategy))
    except Exception:
        _logger.debug("LiteLLM's routing strategy could not be read", exc_info=True)
        return ""


def _proxy_router() -> Any:
    """Return the proxy's router, if this process is a proxy."""
    return getattr(sys.modules.get("litellm.proxy.proxy_server"), "llm_router", None)


def _argument(args: tuple[Any, ...], kwargs: dict[str, Any], index: int, name: str) -> Any:
    return args[index] if index < len(args) else kwargs.get(name)
