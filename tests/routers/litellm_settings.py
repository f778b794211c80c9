"""The model groups of the tests, one for each course of a request."""

from __future__ import annotations

from typing import Any

PROMPT = "a prompt that nobody may record"

# The model that each group's deployments request from the engine.
GROUPS = {
    "good": ["fine", "fine-2"],
    "falls-back": ["error"],
    "error": ["error"],
    "limited": ["limited"],
    "drop": ["drop"],
    "cut": ["cut"],
    "hang": ["hang"],
    "slow": ["slow"],
}
ROUTER = {
    "num_retries": 1,
    "retry_after": 0,
    "disable_cooldowns": True,
    "fallbacks": [{"falls-back": ["good"]}],
}


def model_list(engine: str, nobody: str) -> list[dict[str, Any]]:
    """LiteLLM's deployments, at an engine and at a URL where nobody listens."""
    deployments = [
        _deployment(group, kind, engine) for group, kinds in GROUPS.items() for kind in kinds
    ]
    return [*deployments, _deployment("dead", "fine", nobody)]


def _deployment(group: str, kind: str, url: str) -> dict[str, Any]:
    call: dict[str, Any] = {"model": f"openai/{kind}", "api_base": f"{url}/v1", "api_key": "none"}
    if kind == "hang":
        call["timeout"] = 1
    return {"model_name": group, "litellm_params": call}
