"""The lines of a picker's debug log that tell of its decisions.

llm-d's picker writes them as JSON at `-v=4` or more. Most of its lines are of no use here, and are
told apart by their message before they are parsed.
"""

from __future__ import annotations

import re
from contextlib import suppress
from datetime import datetime
from typing import Any

import msgspec

from otel_lifecycle.model.timestamps import parse_timestamp
from otel_lifecycle.observation.picker.told import (
    LONGEST_NAME,
    MOST_CANDIDATES,
    MOST_PICKS,
    MOST_SCORERS,
    Considered,
    Predicted,
    ProfileRun,
    Told,
)

BEGIN = "EPP received request"
_PROFILE = "Running scheduler profile"
_SCORE = "Calculated score"
_PICK = "Selecting endpoints"  # from candidates, in the manner of the picker
_PREFIX = "Computed hit percentage for prefix cache"
_PREDICTION = "Prediction for scheduling"
_END = "Request handled"
_WANTED = re.compile(
    rb'"msg": ?"(?:'
    + b"|".join(
        re.escape(text.encode())
        for text in (BEGIN, _PROFILE, _SCORE, _PICK, _PREFIX, _PREDICTION, _END)
    )
    + b")"
)
_IDENTITY = re.compile(r"\{(?:ID|NamespacedName):([^\s{}/]+/[^\s{}/]+)[\s}]")
_PREFIX_SCORER = "prefix-cache-scorer"
_LATEST_SECONDS = 9e9


class _Name(msgspec.Struct):
    name: str
    namespace: str = ""


class _Identity(msgspec.Struct, rename="pascal"):
    name: str
    namespace: str = ""


class _Endpoint(msgspec.Struct, rename="pascal"):
    identity: _Identity = msgspec.field(name="ID")
    address: str = ""
    port: str = ""
    running_requests_size: int | None = None
    waiting_queue_size: int | None = None
    kv_cache_usage_percent: float | None = msgspec.field(default=None, name="KVCacheUsagePercent")
    update_time: datetime | None = None


class _Scored(msgspec.Struct, rename="pascal"):
    endpoint: _Endpoint
    score: float


class Line(msgspec.Struct):
    """One line."""

    message: str = msgspec.field(name="msg")
    request_id: str = msgspec.field(name="x-request-id")
    ts: Any = None
    plugin: str = ""
    profile: str = ""
    endpoint: Any = None
    score: float | None = None
    scored: list[_Scored] = msgspec.field(default_factory=list[_Scored], name="scored-endpoints")
    hit: float | None = msgspec.field(default=None, name="absolute hit prefix len (tokens)")
    prompt: float | None = msgspec.field(default=None, name="prompt length (token)")
    ttft_ms: float | None = msgspec.field(default=None, name="TTFT")
    tpot_ms: float | None = msgspec.field(default=None, name="TPOT")
    prefix: float | None = msgspec.field(default=None, name="prefixCacheScore")

    @property
    def at_ns(self) -> int:
        """When it was written, Unix nanoseconds; 0 is unknown."""
        if isinstance(self.ts, str):
            with suppress(ValueError):
                return parse_timestamp(self.ts)
        elif isinstance(self.ts, (int, float)) and 0 < self.ts < _LATEST_SECONDS:
            return round(self.ts * 1e9)
        return 0


def parse_line(line: bytes) -> Line | None:
    """Return a line that tells of a decision; None: it does not."""
    if not _WANTED.search(line):
        return None
    try:
        return _decode(line)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return None


class Reading:
    """What the lines of one request say; those of one run come before the next.

    Args:
        told: What they say goes there.
    """

    def __init__(self, told: Told) -> None:
        self.told = told
        self._profile = ""
        self._scores: dict[str, dict[str, float]] = {}
        self._prefix_scorers: list[str] = []

    def take(self, line: Line) -> int:
        """Take a line; return by how many values there is more to hold."""
        told, message = self.told, line.message
        if message == _SCORE:
            return self._score(line)
        if message.startswith(_PICK):
            return self._pick(line)
        if message == _PROFILE:
            self._profile, self._scores, self._prefix_scorers = line.profile[:LONGEST_NAME], {}, []
        elif message == _PREFIX:
            if told.prefix_hit is None and line.hit is not None and line.prompt and line.prompt > 0:
                # The hit is of whole blocks, and so can be longer than the prompt.
                told.prefix_hit = min(1.0, max(0.0, line.hit / line.prompt))
        elif message == _PREDICTION:
            return self._predict(line)
        elif message == _END:
            told.is_complete = True
        return 0

    def _score(self, line: Line) -> int:
        with suppress(msgspec.ValidationError):
            name = msgspec.convert(line.endpoint, _Name)
            # `name/type` of the plugin; the name is that of the type unless it was given another.
            scorer, _, kind = line.plugin[: 2 * LONGEST_NAME].partition("/")
            scores = self._scores.get(scorer)
            if scores is None:
                if len(self._scores) >= MOST_SCORERS:
                    return 0
                scores = self._scores[scorer] = {}
                if kind == _PREFIX_SCORER:
                    self._prefix_scorers.append(scorer)
            if line.score is not None and len(scores) < MOST_CANDIDATES:
                scores[_full(name.namespace, name.name)] = line.score
                return 1
        return 0

    def _pick(self, line: Line) -> int:
        if len(self.told.runs) >= MOST_PICKS:
            return 0
        candidates = [_considered(each) for each in line.scored[:MOST_CANDIDATES]]
        run = ProfileRun(
            self._profile, candidates, len(line.scored), self._scores, self._prefix_scorers
        )
        self.told.runs.append(run)
        self._profile, self._scores, self._prefix_scorers = "", {}, []
        return 4 * len(candidates)

    def _predict(self, line: Line) -> int:
        named = _IDENTITY.match(line.endpoint) if isinstance(line.endpoint, str) else None
        predictions = self.told.predictions
        if named is None or len(predictions) >= MOST_CANDIDATES:
            return 0
        predicted = Predicted(line.ttft_ms, line.tpot_ms, line.prefix)
        predictions[named[1][: 2 * LONGEST_NAME]] = predicted
        return 2


def _considered(scored: _Scored) -> Considered:
    endpoint = scored.endpoint
    host, port = endpoint.address[:LONGEST_NAME], endpoint.port[:5]
    if ":" in host:
        host = f"[{host}]"
    return Considered(
        _full(endpoint.identity.namespace, endpoint.identity.name),
        scored.score,
        f"{host}:{port}" if host and port else "",
        endpoint.running_requests_size,
        endpoint.waiting_queue_size,
        endpoint.kv_cache_usage_percent,
        endpoint.update_time,
    )


def _full(namespace: str, name: str) -> str:
    return f"{namespace[:LONGEST_NAME]}/{name[:LONGEST_NAME]}"


_decode = msgspec.json.Decoder(Line).decode
