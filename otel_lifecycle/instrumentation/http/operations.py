"""The paths of inference requests, and the GenAI operation that each stands for."""

from __future__ import annotations

# By the end of the path.
OPERATIONS = {
    "/chat/completions": "chat",
    "/completions": "text_completion",
    "/messages": "chat",
    "/responses": "chat",
    "/generate": "text_completion",
}


def operation(path: str) -> str | None:
    """Return the GenAI operation of a path; None when it is no inference."""
    for ending, name in OPERATIONS.items():
        if path.endswith(ending):
            return name
    return None
