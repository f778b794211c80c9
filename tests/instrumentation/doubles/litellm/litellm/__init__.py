"""A double of LiteLLM: its router's public interface, and little of its behaviour."""

from __future__ import annotations

from typing import Any

callbacks: list[Any] = []

from litellm.router import Router as Router  # noqa: E402
