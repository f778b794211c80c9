"""A double of LiteLLM: what its router shows to the outside, and little of what it does."""

from __future__ import annotations

from typing import Any

callbacks: list[Any] = []

from litellm.router import Router as Router  # noqa: E402
