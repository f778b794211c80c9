"""The setting for labels: which fields of a request are recorded beside the rest."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Annotated, Final, NamedTuple

from pydantic import BeforeValidator

from otel_lifecycle.config.entries import entries

if TYPE_CHECKING:
    from otel_lifecycle.config.entries import Entries

HEADER: Final = "header"
BODY: Final = "body"
REQUEST: Final = "request"
MAX_LABELS: Final = 16
MAX_NAME: Final = 64
PLAIN: Final = "plain"
METRIC: Final = "metric"

# Names of the field. That of Dynamo's trajectories is from its versions before 1.5.
PRESETS: Final[Mapping[str, tuple[str, ...]]] = {
    "llm-d": (
        "fairness_id=x-llm-d-inference-fairness-id",
        "fairness_id=x-gateway-inference-fairness-id",
        "objective=x-llm-d-inference-objective;plain",
        "objective=x-gateway-inference-objective;plain",
        "priority=request:objectives.priority;plain",
    ),
    "dynamo": (
        "session_id=x-dynamo-session-id",
        "session_id=body:nvext.agent_context.session_id",
        "parent_session_id=x-dynamo-parent-session-id",
        "parent_session_id=body:nvext.agent_context.parent_session_id",
        "trajectory_id=body:nvext.agent_context.trajectory_id",
        "parent_trajectory_id=body:nvext.agent_context.parent_trajectory_id",
        "session_type_id=body:nvext.agent_context.session_type_id;plain",
    ),
}

_EXPECTED = (
    "must be entries such as tenant=x-tenant-id, session=body:metadata.session;plain, or one of "
    f"{', '.join(PRESETS)}"
)
_NAME = re.compile(r"[A-Za-z0-9_]+(?:\.[A-Za-z0-9_]+)*")
_HEADER = re.compile(r"[a-z0-9_.-]{1,128}")
_PATH = re.compile(r"[A-Za-z0-9_-]{1,128}(?:\.[A-Za-z0-9_-]{1,128}){0,7}")
_SECRET = re.compile(
    r"authori[sz]ation|cookie|(?:api|access|subscription|private|secret|shared)[-_]?key"
    r"|(?:^|[-_.])(?:auth|token|jwt|bearer|secret|password|passwd|credentials?|signature)(?:$|[-_.])"
)
_CONTENT = frozenset(
    {
        "audio",
        "content",
        "contents",
        "documents",
        "input",
        "input_ids",
        "inputs",
        "instructions",
        "messages",
        "prompt",
        "prompt_token_ids",
        "query",
        "suffix",
        "system",
        "text",
        "texts",
        "tools",
    }
)


class Source(NamedTuple):
    """Where the value of a label comes from.

    Attributes:
        kind: `header`, `body`, or `request` for an object that a scheduler hands to the hooks.
        path: The name of the header in lower case, or the names of nested fields.
    """

    kind: str
    path: tuple[str, ...]


class Label(NamedTuple):
    """One label.

    Attributes:
        name: Its name.
        sources: Where it comes from; the first with a value counts. None: only the program gives
            it.
        plain: Whether the value is recorded as it is, and not hashed.
        metric: Whether metrics have it as an attribute.
    """

    name: str
    sources: tuple[Source, ...] = ()
    plain: bool = False
    metric: bool = False


def parse_labels(texts: Iterable[str]) -> dict[str, Label]:
    """Return the labels of the setting, by name.

    Raises:
        ValueError: An entry is invalid.
    """
    labels: dict[str, Label] = {}
    for text in texts:
        word, *options = text.split(";")
        more = "".join(f";{option}" for option in options)
        for entry in PRESETS.get(word.strip(), ()) or (word,):
            _add(labels, entry + more)
    if len(labels) > MAX_LABELS:
        raise ValueError(f"must be at most {MAX_LABELS} labels")
    return labels


def _add(labels: dict[str, Label], text: str) -> None:
    entry, *options = map(str.strip, text.split(";"))
    name, is_named, source = map(str.strip, entry.partition("="))
    if not is_named or not set(options) <= {PLAIN, METRIC}:
        raise ValueError(_EXPECTED)
    if not is_label_name(name):
        raise ValueError(
            f"must have names of letters, digits, _ and ., at most {MAX_NAME} characters long"
        )
    label = labels.get(name, Label(name))
    labels[name] = label._replace(
        sources=(*label.sources, _source(source)) if source else label.sources,
        plain=label.plain or PLAIN in options,
        metric=label.metric or METRIC in options,
    )


def is_label_name(name: str) -> bool:
    """Return whether a label may have this name."""
    return len(name) <= MAX_NAME and _NAME.fullmatch(name) is not None


def header_name(text: str) -> str:
    """Return the name of a header that may be read, in lower case.

    Raises:
        ValueError: It is no name, or that of a header with secrets.
    """
    name = text.lower()
    if not _HEADER.fullmatch(name):
        raise ValueError(f"must name headers such as x-tenant-id, not {text!r}")
    _refuse_secret(name, text)
    return name


def _source(text: str) -> Source:
    kind, is_kind, path = text.partition(":")
    if not is_kind:
        return Source(HEADER, (header_name(text),))
    if kind not in (BODY, REQUEST) or not _PATH.fullmatch(path):
        raise ValueError(_EXPECTED)
    _refuse_secret(path.lower(), text)
    names = tuple(path.split("."))
    if not _CONTENT.isdisjoint(name.lower() for name in names):
        raise ValueError(f"must not name {text}: prompts are never recorded")
    return Source(kind, names)


def _refuse_secret(name: str, text: str) -> None:
    if _SECRET.search(name):
        raise ValueError(f"must not name {text}: it may hold a secret")


def _labels(value: object) -> tuple[str, ...]:
    texts = entries(value, _EXPECTED)
    parse_labels(texts)
    return texts


if TYPE_CHECKING:
    Labels = Entries
else:
    Labels = Annotated[tuple[str, ...], BeforeValidator(_labels)]
