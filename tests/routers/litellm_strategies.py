"""A program that routes by each strategy of LiteLLM that compares something; arguments: URLs."""

from __future__ import annotations

import asyncio
import sys

from litellm import Router

STRATEGIES = ("least-busy", "latency-based-routing", "usage-based-routing-v2", "cost-based-routing")


async def route(urls: list[str]) -> None:
    """Call each router four times, one call after the other; the last URL is the cheapest."""
    for strategy in STRATEGIES:
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
        for number in range(4):
            await asyncio.sleep(number)  # its own statistics follow later
            await router.acompletion(
                model=strategy, messages=[{"role": "user", "content": "hi"}], stream=False
            )


if __name__ == "__main__":
    asyncio.run(route(sys.argv[1:]))
