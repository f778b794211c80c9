"""`Router` with the signatures of LiteLLM 1.80 to 1.108; it rebuilds engines' answers."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from typing import Any
from uuid import uuid4

import httpx

import litellm
from litellm.integrations.custom_logger import CustomLogger

NO_POOL = httpx.Limits(max_keepalive_connections=0)


class RouterError(Exception):
    pass


class CustomStreamWrapper:
    """Ends every stream properly, even if the engine did not."""

    def __init__(self, response: httpx.Response) -> None:
        self.response = response
        self.model = "m"
        self._chunks: Any = None

    def __aiter__(self) -> CustomStreamWrapper:
        return self

    async def __anext__(self) -> Any:
        if self._chunks is None:
            self._chunks = self._read()
        return await anext(self._chunks)

    def __iter__(self) -> CustomStreamWrapper:
        return self

    def __next__(self) -> Any:
        if self._chunks is None:
            self._chunks = self._read_blocking()
        return next(self._chunks)

    async def aclose(self) -> None:
        await self.response.aclose()

    async def _read(self) -> AsyncIterator[Any]:
        async for line in self.response.aiter_lines():
            if line.startswith("data: {"):
                yield json.loads(line[6:])
        yield {"choices": [{"finish_reason": "stop"}], "usage": {"completion_tokens": 0}}

    def _read_blocking(self) -> Iterator[Any]:
        for line in self.response.iter_lines():
            if line.startswith("data: {"):
                yield json.loads(line[6:])


class Router:
    def __init__(
        self, model_list: list[Any], num_retries: int = 0, strategy: Any = None, cause: str = ""
    ) -> None:
        self.model_list = model_list
        self.num_retries = num_retries
        self.routing_strategy = "simple-shuffle" if strategy is None else type(strategy).__name__
        self.strategy = strategy
        self.cause = cause

    async def acompletion(
        self, model: str, messages: list[Any], stream: bool = False, **kwargs: Any
    ) -> Any:
        call = {"model": model, "messages": messages, "stream": stream, **kwargs}
        return await self._call(model, "/v1/chat/completions", call)

    async def atext_completion(
        self, model: str, prompt: str, is_retry: bool | None = False, **kwargs: Any
    ) -> Any:
        return await self._call(
            model, "/v1/completions", {"model": model, "prompt": prompt, **kwargs}
        )

    def completion(self, model: str, messages: list[Any], **kwargs: Any) -> Any:
        client = httpx.Client(timeout=30, trust_env=False, limits=NO_POOL)
        url = self._deployments(model)[0]["litellm_params"]["api_base"]
        call = {"model": model, "messages": messages, **kwargs}
        request = client.build_request("POST", f"{url}/v1/chat/completions", json=call)
        return self._answer(client.send(request, stream=kwargs.get("stream", False)), call)

    async def _call(self, model: str, path: str, call: dict[str, Any]) -> Any:
        client = httpx.AsyncClient(timeout=30, trust_env=False, limits=NO_POOL)
        request_kwargs = {"litellm_trace_id": str(uuid4()), "metadata": {}}
        if self.cause:
            request_kwargs["metadata"]["routing_decision"] = {"cause": self.cause}
        for attempt in range(self.num_retries + 1):
            deployments = self._deployments(model)
            for callback in litellm.callbacks:
                if isinstance(callback, CustomLogger):
                    deployments = await callback.async_filter_deployments(
                        model=model,
                        healthy_deployments=deployments,
                        messages=call.get("messages"),
                        request_kwargs=request_kwargs,
                        parent_otel_span=None,
                    )
            chosen = deployments[attempt % len(deployments)]
            if self.strategy is not None:
                more = (
                    {"request_kwargs": request_kwargs}
                    if hasattr(self.strategy, "_get_available_deployments")
                    else {}
                )
                chosen = await self.strategy.async_get_available_deployments(
                    model, deployments, **more
                )
            url = chosen["litellm_params"]["api_base"]
            request = client.build_request("POST", f"{url}{path}", json=call)
            try:
                response = await client.send(request, stream=call.get("stream", False))
            except httpx.ConnectError:
                if attempt == self.num_retries:
                    raise
            else:
                if response.status_code >= 400:
                    await response.aclose()
                    raise RouterError(response.status_code)
                return self._answer(response, call)

    def _deployments(self, model: str) -> list[Any]:
        found = [entry for entry in self.model_list if entry["model_name"] == model]
        if not found:
            raise RouterError("no healthy deployments")
        return found

    def _answer(self, response: httpx.Response, call: dict[str, Any]) -> Any:
        return CustomStreamWrapper(response) if call.get("stream") else response.json()
