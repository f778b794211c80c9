"""The settings for labels and for targets of latencies."""

from __future__ import annotations

from typing import Any

import pytest

from otel_lifecycle import ConfigError, TrackerConfig
from otel_lifecycle.config.labels import Label, Source, parse_labels
from otel_lifecycle.config.slo import Target, parse_slo

KEY = "a key of the operator"


def test_labels() -> None:
    """An entry names header or field, an option how it is recorded; a name may have several."""
    config = TrackerConfig(
        labels="tenant=X-Tenant-Id;metric,tenant=body:metadata.user-id, a.b=x-b;plain,mine=;plain",
        labels_key=KEY,
    )

    assert parse_labels(config.labels) == {
        "tenant": Label(
            "tenant",
            (Source("header", ("x-tenant-id",)), Source("body", ("metadata", "user-id"))),
            metric=True,
        ),
        "a.b": Label("a.b", (Source("header", ("x-b",)),), plain=True),
        "mine": Label("mine", (), plain=True),
    }


@pytest.mark.parametrize("word", ["llm-d", "dynamo"])
def test_words(word: str) -> None:
    """One word stands for the names of a project, and an option holds for all of them."""
    labels = parse_labels([f"{word};plain"])

    assert all(label.plain for label in labels.values())
    assert [label.sources[0].path[-1] for label in labels.values()] == {
        "llm-d": ["x-llm-d-inference-fairness-id", "x-llm-d-inference-objective", "priority"],
        "dynamo": [
            "x-dynamo-session-id",
            "x-dynamo-parent-session-id",
            "trajectory_id",
            "parent_trajectory_id",
            "session_type_id",
        ],
    }[word]


SECRET_HEADERS = (
    "Authorization",
    "proxy-authorization",
    "cookie",
    "Set-Cookie",
    "x-api-key",
    "api-key",
    "apikey",
    "x-goog-api-key",
    "ocp-apim-subscription-key",
    "x-amz-security-token",
    "x-auth-token",
    "x-client-secret",
)


@pytest.mark.parametrize("source", [*SECRET_HEADERS, "body:api_key", "body:user.password"])
def test_labels_do_not_name_secrets(source: str) -> None:
    """Neither a header nor a field that may hold a secret can be a label."""
    with pytest.raises(ConfigError, match=f"labels must not name {source}: it may hold"):
        TrackerConfig(labels=f"tenant={source};plain")


@pytest.mark.parametrize("header", SECRET_HEADERS)
def test_targets_do_not_name_secrets(header: str) -> None:
    """No header that may hold a secret can be a target."""
    with pytest.raises(ConfigError, match=f"slo must not name {header}: it may hold"):
        TrackerConfig(slo=f"ttft={header}")


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"labels": "tenant=x-tenant-id"}, "labels_key is required: the value of label tenant"),
        ({"labels": "llm-d"}, "labels_key is required"),
        ({"labels": "tenant"}, "labels must be entries such as"),
        ({"labels": "tenant=x;loud"}, "labels must be entries such as"),
        ({"labels": "tenant=cookies:x;plain"}, "labels must be entries such as"),
        ({"labels": "tenant=body:a..b;plain"}, "labels must be entries such as"),
        ({"labels": "ten-ant=x;plain"}, "labels must have names of letters, digits"),
        ({"labels": f"{'x' * 65}=x;plain"}, "labels must have names of letters, digits"),
        ({"labels": "tenant=x tenant;plain"}, "labels must name headers such as"),
        ({"labels": [f"l{number}=x;plain" for number in range(17)]}, "labels must be at most 16"),
        ({"labels": "p=body:prompt;plain"}, "labels must not name body:prompt: prompts are never"),
        ({"labels": "p=body:a.Messages;plain"}, "labels must not name body:a.Messages: prompts"),
        ({"labels": 5}, "labels must be entries such as .* got 5"),
        ({"labels_key": "short"}, "^invalid parameters: labels_key must have at least 16 charac"),
        ({"labels_key": 1234567890123456}, "^invalid parameters: labels_key must be text$"),
        ({"slo": "ttft"}, "slo must be entries such as"),
        ({"slo": "first=1s"}, "slo must be entries such as"),
        ({"slo": "ttft=0s"}, "slo must be entries such as"),
        ({"slo": "ttft=500"}, "is not a Go duration"),
        ({"slo": "ttft=1s,ttft=2s"}, "slo must have one duration for ttft"),
    ],
)
def test_refused(settings: dict[str, Any], problem: str) -> None:
    """An invalid entry is refused with the setting and what is allowed, and without the key."""
    with pytest.raises(ConfigError, match=problem) as error:
        TrackerConfig(**settings)

    assert "1234567890123456" not in str(error.value)
    assert "short" not in str(error.value)


def test_the_key_is_not_shown() -> None:
    """Whoever prints the settings does not print the key."""
    config = TrackerConfig(labels="tenant=x-tenant-id", labels_key=KEY)

    assert KEY not in f"{config} {config!r} {config.model_dump()}"
    assert config.labels_key.get_secret_value() == KEY


def test_slo() -> None:
    """A target is a duration, which headers may replace for a request."""
    config = TrackerConfig(slo="ttft=500ms, e2e=30s, llm-d, e2e=X-Deadline-Ms")

    assert parse_slo(config.slo) == {
        "ttft": Target(("x-llm-d-slo-ttft-ms", "x-slo-ttft-ms"), 500.0),
        "e2e": Target(("x-deadline-ms",), 30_000.0),
        "tpot": Target(("x-llm-d-slo-tpot-ms", "x-slo-tpot-ms")),
    }
