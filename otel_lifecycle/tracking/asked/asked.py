"""Takes labels and targets of latencies from requests, as the settings ask for them."""

from __future__ import annotations

import hmac
from collections.abc import Iterable, Mapping
from math import isfinite
from typing import Any, Final, cast

import msgspec

from otel_lifecycle.config import TrackerConfig
from otel_lifecycle.config.labels import (
    BODY,
    HEADER,
    MAX_LABELS,
    is_label_name,
    parse_labels,
)
from otel_lifecycle.config.slo import TARGETS, parse_slo
from otel_lifecycle.model import SLO, RequestStart, sanitize
from otel_lifecycle.model.request import NO_LABELS
from otel_lifecycle.tracking.asked.body import BodyFields, Path
from otel_lifecycle.tracking.reading import read

MAX_VALUE: Final = 256
_DIGEST_BYTES: Final = 16
_NO_FIELDS: Mapping[Path, object] = {}


class Asked:
    """What one tracker is asked to record of requests; thread-safe.

    Args:
        config: Its settings.

    Attributes:
        reads: Whether the settings ask for anything.
        raw_header_names: The headers that are read, in lower case, as ASGI has them.
        body: Reads the fields of a body; None: none is asked for.
    """

    def __init__(self, config: TrackerConfig) -> None:
        self._labels = parse_labels(config.labels)
        self._targets = parse_slo(config.slo)
        self._key = config.labels_key.get_secret_value().encode()
        sources = [source for label in self._labels.values() for source in label.sources]
        self.reads = bool(self._labels or self._targets)
        names = [source.path[0] for source in sources if source.kind == HEADER]
        names += [name for target in self._targets.values() for name in target.headers]
        self.raw_header_names = frozenset(name.encode() for name in names)
        paths = [source.path for source in sources if source.kind == BODY]
        self.body = BodyFields(paths) if paths else None

    def labels_in(
        self,
        headers: Mapping[str, str] | None,
        body: Mapping[Path, object] = _NO_FIELDS,
        request: object = None,
    ) -> dict[str, Any]:
        """Return the labels of a request, as it has them.

        Args:
            headers: Its headers, in lower case.
            body: The fields of its body.
            request: What a scheduler hands to the hooks.
        """
        found: dict[str, Any] = {}
        for name, label in self._labels.items():
            for source in label.sources:
                value: object = None
                if source.kind == HEADER:
                    value = None if headers is None else headers.get(source.path[0])
                elif source.kind == BODY:
                    value = body.get(source.path)
                elif request is not None:
                    value = _attribute(request, source.path)
                if value is not None and value != "":
                    found[name] = value
                    break
        return found

    def fields_in(self, payload: Mapping[str, Any]) -> Mapping[Path, object]:
        """Return the fields that are asked for of a body that is decoded already."""
        fields: dict[Path, object] = {}
        for path in () if self.body is None else self.body.paths:
            value: Any = payload
            for name in path:
                value = value.get(name) if isinstance(value, Mapping) else None  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
            if isinstance(value, (str, int, float)):
                fields[path] = value
        return fields

    def of_request(self, start: RequestStart, request: object) -> RequestStart:
        """Return the start of a request with what a scheduler's object of it has.

        Args:
            start: What is known of it else.
            request: As the hooks take it: with `headers`, `body.payload` and others, if any.
        """
        headers = read(request, "headers")
        payload = read(read(request, "body"), "payload")
        labels = self.labels_in(
            headers if isinstance(headers, Mapping) else None,  # pyright: ignore[reportUnknownArgumentType]
            self.fields_in(payload) if isinstance(payload, Mapping) else _NO_FIELDS,  # pyright: ignore[reportUnknownArgumentType]
            request,
        )
        slo = self._slo(None, headers) if isinstance(headers, Mapping) else None  # pyright: ignore[reportUnknownArgumentType]
        return msgspec.structs.replace(start, labels=labels, slo=slo)

    def take(
        self, start: RequestStart, headers: Mapping[str, str] | None
    ) -> tuple[RequestStart, int]:
        """Return the start of a request with labels and targets as they are recorded.

        Args:
            start: What the program says; that counts first.
            headers: Its headers, in lower case.

        Returns:
            The start, and how many values could not be used.
        """
        given = start.labels
        labels: dict[str, Any] = self.labels_in(headers) if self._labels else {}
        invalid = 0
        if isinstance(given, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]
            labels |= given
        else:
            invalid = 1
        usable = dict(self._usable(labels))
        invalid += len(labels) - len(usable)
        slo = self._slo(start.slo, headers or {}) if self._targets else _usable_slo(start.slo)
        for name in TARGETS:
            field = f"{name}_ms"
            was = getattr(start.slo, field, None)
            invalid += was is not None and getattr(slo, field, None) != was
        return msgspec.structs.replace(start, labels=usable or NO_LABELS, slo=slo), invalid

    def take_again(self, old: RequestStart, new: RequestStart) -> tuple[RequestStart, int]:
        """Return what is said now of a request in flight, beside what was said before."""
        if new.labels is old.labels:
            new = msgspec.structs.replace(new, labels=NO_LABELS)
        taken, invalid = self.take(new, None)
        labels = {**old.labels, **taken.labels}
        slo = taken.slo if new.slo is not None else old.slo
        return msgspec.structs.replace(taken, labels=labels or NO_LABELS, slo=slo), invalid

    def _usable(self, labels: Mapping[Any, Any]) -> Iterable[tuple[str, str]]:
        number = 0
        for name, value in labels.items():
            if number == MAX_LABELS:
                return
            text = _text(value)
            if text is not None and isinstance(name, str) and is_label_name(name):
                number += 1
                label = self._labels.get(name)
                yield name, text if label is None or label.plain else self.hashed(text)

    def hashed(self, value: str) -> str:
        """Return the keyed hash of a value: 32 hexadecimal digits of HMAC-SHA256."""
        return hmac.digest(self._key, value.encode(), "sha256")[:_DIGEST_BYTES].hex()

    def _slo(self, given: SLO | None, headers: Mapping[str, str]) -> SLO | None:
        """The targets of a request: the program's, else a header's, else the setting's."""
        found: dict[str, float | None] = {}
        for name in TARGETS:
            value = _target(getattr(given, f"{name}_ms", None))
            target = self._targets.get(name)
            if target is not None:
                for header in target.headers:
                    value = _header_target(headers.get(header)) if value is None else value
                value = target.default_ms if value is None else value
            found[f"{name}_ms"] = value
        return SLO(**found) if any(found.values()) else None


def _usable_slo(given: object) -> SLO | None:
    if not isinstance(given, SLO):
        return None
    slo = SLO(_target(given.ttft_ms), _target(given.tpot_ms), _target(given.e2e_ms))
    return None if slo == SLO() else slo


def _target(value: object) -> float | None:
    milliseconds = sanitize.milliseconds(value)
    return milliseconds or None


def _header_target(text: object) -> float | None:
    """A target in a header; llm-d's 0 stands for none."""
    try:
        return _target(float(cast("str", text)))
    except (TypeError, ValueError):
        return None


def _text(value: object) -> str | None:
    """The text of a value; None if it cannot be a label.

    What is too long is left out: a part of an id is another one's, too.
    """
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return repr(value) if isfinite(value) else None
    if not isinstance(value, (str, int)) or (isinstance(value, str) and len(value) > MAX_VALUE):
        return None
    return sanitize.text(value) or None


def _attribute(source: object, path: Path) -> object:
    for name in path:
        source = read(source, name)
    return source
