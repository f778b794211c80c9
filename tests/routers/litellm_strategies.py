"""A program that routes by each strategy of LiteLLM that compares something; arguments: URLs."""

from __future__ import annotations

import asyncio
import sys

from litellm import Router

STRATEGIES = ("least-busy", "latency-based-routing", "usage-based-routing-v2", "cost-based-routing")


async def route(strategy: str, urls: list[str]) -> None:
    """Call a router four times, one call after the other; the last URL is the cheapest."""
    deployments = [
        {
            "model_name": strategy,
            "litellm_params": {
                "model": "openai/fine",
                "api_base": f"{url}/v1",
                "api_key": "none",
                "input_cost_per_token": 0.5 / (place + 1),
                "output_cost_per_token": 1.0,
            },
        }
        for place, url in enumerate(urls)
    ]
    router = Router(model_list=deployments, routing_strategy=strategy)
    for pause in (0, 0, 0, 3):  # the router's own statistics follow later; the last call needs them
        await asyncio.sleep(pause)
        await router.acompletion(
            model=strategy, messages=[{"role": "user", "content": "hi"}], stream=False
        )


async def main(urls: list[str]) -> None:
    """Route by all strategies at once."""
    await asyncio.gather(*(route(strategy, urls) for strategy in STRATEGIES))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:]))
