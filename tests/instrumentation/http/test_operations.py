"""The paths of inference requests, and their operations."""

from __future__ import annotations

import pytest

from otel_lifecycle import ConfigError, TrackerConfig
from otel_lifecycle.instrumentation.http.requests.operations import Paths, serves

BUILT_IN = {
    "/v1/chat/completions": "chat",
    "/v1/messages": "chat",
    "/v1/responses": "chat",
    "/api/chat": "chat",
    "/v1/completions": "text_completion",
    "/generate": "text_completion",
    "/generate_stream": "text_completion",
    "/api/generate": "text_completion",
    "/v2/models/m/generate": "text_completion",
    "/worker_generate": "text_completion",
    "/worker_generate_stream": "text_completion",
    "/worker_generate_completion": "text_completion",
    "/microserving/prep_recv": "text_completion",
    "/v1beta/models/gemini-pro:generateContent": "generate_content",
    "/v1beta/models/gemini-pro:streamGenerateContent": "generate_content",
    "/v1/embeddings": "embeddings",
    "/api/embed": "embeddings",
    "/worker_get_embeddings": "embeddings",
    "/v1/rerank": "rerank",
    "/v1/score": "score",
    "/pooling": "pooling",
    "/v1/audio/speech": "speech",
    "/v1/audio/transcriptions": "transcription",
    "/v1/audio/translations": "translation",
    "/v1/images/generations": "image_generation",
    "/v1/images/edits": "image_generation",
    "/v2/models/m/infer": "inference",
    "/v2/models/m/versions/1/infer": "inference",
    "/v1/models/m:predict": "inference",
    "/invocations": "inference",
}


@pytest.mark.parametrize(("path", "operation"), BUILT_IN.items())
@pytest.mark.parametrize("before", ["", "/proxy", "/a/b/c/d/e/f/g"])
@pytest.mark.parametrize("behind", ["", "/"])
def test_built_in(path: str, operation: str, before: str, behind: str) -> None:
    """Paths are recognised by their end, under any prefix, with or without a trailing slash."""
    assert Paths().operation(before + path + behind) == operation


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/",
        "//",
        "*",
        ":",
        "/:",
        "/chat",
        "/tokenize",
        "/v1/models",
        "/infer",
        "/v2/models/infer",
        "/microserving",
        "/regenerate",
        "/v1/models/m:explain",
        "/chat/completions/cancel",
        "/generate/" * 20_000 + "x",
    ],
)
def test_others(path: str) -> None:
    """A path without such an end is not inference."""
    assert Paths().operation(path) is None


@pytest.mark.parametrize(
    ("configured", "path", "operation"),
    [
        ("/ask", "/v9/ask", "inference"),
        ("/ask", "/task", None),
        ("/ask=chat", "/ask/", "chat"),
        ("/v3/*/run=chat", "/v3/model/run", "chat"),
        ("/v3/*/run=chat", "/v3/run", None),
        (":ask=chat", "/models/m:ask", "chat"),
        ("/messages=", "/v1/messages", None),
        ("/messages=, /v1/messages=chat", "/v1/messages", "chat"),
        ("/messages=, /v1/messages=chat", "/v2/messages", None),
        ("/completions=chat", "/v1/completions", "chat"),
        ("/completions=legacy", "/v1/chat/completions", "chat"),
    ],
)
def test_configured(configured: str, path: str, operation: str | None) -> None:
    """Configured endings take precedence over built-in ones, longer ones over shorter."""
    config = TrackerConfig.from_environment({"OTEL_LIFECYCLE_PATHS": configured})

    assert Paths(config.paths).operation(path) == operation


def test_ways_to_configure() -> None:
    """Text and lists are equivalent, in JSON and in Python."""
    ways = [
        TrackerConfig(paths=("/ask", ":run=chat")),
        TrackerConfig.from_json('{"paths": ["/ask", ":run=chat"]}'),
        TrackerConfig.from_json('{"paths": "/ask, :run=chat"}'),
        TrackerConfig.from_environment({}, paths="/ask,:run=chat"),
    ]

    assert [config.paths for config in ways] == [("/ask", ":run=chat")] * 4
    assert TrackerConfig.from_json('{"paths": ""}') == TrackerConfig.from_json("{}")


@pytest.mark.parametrize(
    "refused",
    ['"ask"', '"/"', '"/*"', '"/a/"', '"/a b"', '"/a=b=c"', "3", "[3]", '"/a/b/c/d/e/f/g"'],
)
def test_refused(refused: str) -> None:
    """An ending that matches nothing, or everything, is refused."""
    with pytest.raises(ConfigError, match="paths must be endings of paths"):
        TrackerConfig.from_json(f'{{"paths": {refused}}}')


@pytest.mark.parametrize(
    ("call", "request_", "expected"),
    [
        ("chat", "chat", True),
        ("text_completion", "chat", True),
        ("generate_content", "chat", True),
        ("inference", "chat", True),
        ("embeddings", "embeddings", True),
        ("inference", "embeddings", True),
        ("embeddings", "chat", False),
        ("rerank", "chat", False),
        ("chat", "embeddings", False),
        ("score", "rerank", False),
    ],
)
def test_side_calls(call: str, request_: str, expected: bool) -> None:
    """A call of another kind than the request is a side call."""
    assert serves(call, request_) is expected
