"""The paths of inference requests, and the operation that each stands for."""

from __future__ import annotations

from functools import cache, lru_cache
from typing import Final

from otel_lifecycle.config.paths import MAX_SEGMENTS

# How paths end; `*` is any one segment, and what begins with `:` ends the last segment.
# The GenAI conventions know chat, text_completion, generate_content and embeddings.
_OPERATIONS: Final = {
    "/chat/completions": "chat",
    "/messages": "chat",
    "/responses": "chat",
    "/api/chat": "chat",
    "/completions": "text_completion",
    "/generate": "text_completion",
    "/generate_stream": "text_completion",
    "/worker_generate": "text_completion",
    "/worker_generate_stream": "text_completion",
    "/worker_generate_completion": "text_completion",
    "/microserving/*": "text_completion",
    ":generateContent": "generate_content",
    ":streamGenerateContent": "generate_content",
    "/embeddings": "embeddings",
    "/embed": "embeddings",
    "/worker_get_embeddings": "embeddings",
    ":embedContent": "embeddings",
    ":batchEmbedContents": "embeddings",
    "/rerank": "rerank",
    "/score": "score",
    "/pooling": "pooling",
    "/audio/speech": "speech",
    "/audio/transcriptions": "transcription",
    "/audio/translations": "translation",
    "/images/generations": "image_generation",
    "/images/edits": "image_generation",
    "/images/variations": "image_generation",
    "/v2/models/*/infer": "inference",
    "/v2/models/*/versions/*/infer": "inference",
    ":predict": "inference",
    ":rawPredict": "inference",
    ":streamRawPredict": "inference",
    "/invocations": "inference",
}
_JUDGING: Final = ("/moderations", "/classify")
UNNAMED: Final = "inference"
_GENERATING: Final = frozenset({"chat", "text_completion", "generate_content"})
_MAX_REMEMBERED: Final = 128  # characters of a path: clients make them up


class Paths:
    """Tells inference requests by their paths.

    Args:
        configured: More of what is built in, which come first: each an ending, or
            `ending=operation`; an empty operation takes the ending out.
    """

    def __init__(self, configured: tuple[str, ...] = ()) -> None:
        named = dict(_OPERATIONS)
        for text in configured:
            ending, is_named, name = text.partition("=")
            named[ending] = name if is_named else UNNAMED
        # Found by their last segment, the longest first.
        self._endings: dict[str, list[tuple[list[str], str]]] = {}
        for ending in sorted(named, key=lambda text: text.count("/"), reverse=True):
            *before, last = ending.removeprefix("/").split("/")
            self._endings.setdefault(last, []).append((before, named[ending]))
        self._remembered = lru_cache(maxsize=256)(self._find)

    def operation(self, path: str) -> str | None:
        """Return the operation of a path; None when it is no inference."""
        return self._remembered(path) if len(path) <= _MAX_REMEMBERED else self._find(path)

    def _find(self, path: str) -> str | None:
        segments = path.rstrip("/").rsplit("/", MAX_SEGMENTS)
        last = segments[-1]
        for key in (last, last[last.rfind(":") :] if ":" in last else "", "*"):
            for before, name in self._endings.get(key, ()):
                if _fits(before, segments[:-1]):
                    return name or None
        return None


@cache
def paths(configured: tuple[str, ...]) -> Paths:
    """Return the paths for a tracker's settings."""
    return Paths(configured)


def serves(call: str, request: str) -> bool:
    """Return whether a call of one operation can be what a request of another was sent to.

    An embedding that is made on the way to an answer is no engine's answer to the client.
    """
    return call == request or UNNAMED in (call, request) or {call, request} <= _GENERATING


def judges(path: str) -> bool:
    """Return whether a path is one of models that judge a text, and answer no client."""
    return path.rstrip("/").endswith(_JUDGING)


def _fits(ending: list[str], segments: list[str]) -> bool:
    there = segments[-len(ending) :] if ending else []
    return len(there) == len(ending) and all(
        expected in ("*", found) for expected, found in zip(ending, there, strict=True)
    )
