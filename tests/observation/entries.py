"""Entries of Envoy's access log, and what is made of them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from otel_lifecycle.config import TrackerConfig
from otel_lifecycle.model import Load
from otel_lifecycle.model.record import LifecycleRecord
from otel_lifecycle.observation.endpoints import Endpoints
from otel_lifecycle.observation.envoy.entry import parse_entry
from otel_lifecycle.observation.envoy.join import Joiner
from otel_lifecycle.observation.envoy.lifecycles import Lifecycles
from otel_lifecycle.runtime.clock import SystemClock
from otel_lifecycle.tracking.store import LifecycleStore

OBSERVED = Path(__file__).with_name("data") / "access_log.jsonl"
ENGINE = "10.0.0.1:8000"
ARRIVED_US = 1_795_970_684_260_860


def moment(after_us: int = 0) -> str:
    """A moment so long after the arrival, as Envoy writes it."""
    at = ARRIVED_US + after_us
    return f"{at // 1_000_000}.{at % 1_000_000:06}"


def line(kind: str, rid: str | None = "r", **fields: Any) -> bytes:
    """One line of a log, without its end."""
    entry = {"type": kind, "t": moment(), "rid": rid, "conn": 7, "v": "1", **fields}
    return json.dumps(entry).encode()


def start(rid: str = "r", **fields: Any) -> bytes:
    """The arrival."""
    return line("DownstreamStart", rid, **fields)


def ready(rid: str = "r", after_us: int = 2_000, ep: str = ENGINE, **fields: Any) -> bytes:
    """The begin of an attempt."""
    return line("UpstreamPoolReady", rid, t=moment(after_us), ep=ep, up=ep, **fields)


def upstream_end(rid: str = "r", after_us: int = 2_000, ep: str = ENGINE, **fields: Any) -> bytes:
    """The end of an attempt that began so long after the arrival."""
    facts = {"code": 200, "flags": "-", "dur_ms": 98, **fields}
    return line("UpstreamEnd", rid, t=moment(after_us), ep=ep, up=ep, **facts)


def end(rid: str | None = "r", **fields: Any) -> bytes:
    """The end of a stream that went well, or as `fields` say."""
    facts = {
        "ep": ENGINE,
        "up": ENGINE,
        "code": 200,
        "details": "via_upstream",
        "flags": "-",
        "attempts": 1,
        "up_tx_us": 2_100,
        "ttfb_body_us": 50_000,
        "e2e_us": 100_000,
        "dur_ms": 100,
        "ct": "text/event-stream",
        "llm": {"req_model": "m", "model": "m", "id": "e-1", "stream": True, "prompt_tokens": 20},
    }
    return line("DownstreamEnd", rid, **{**facts, **fields})


def whole(rid: str = "r", **fields: Any) -> list[bytes]:
    """All entries of one request."""
    return [start(rid), ready(rid), upstream_end(rid), end(rid, **fields)]


class Joined:
    """A joiner with a store of its own, and the records that it has made."""

    def __init__(self, **options: Any) -> None:
        self.records: list[LifecycleRecord] = []
        self.now = 0.0
        self.store = LifecycleStore("observation-test")
        config, clock = options.pop("config", TrackerConfig()), options.pop("clock", SystemClock())
        shadow, picker = options.pop("shadow", None), options.pop("picker", None)
        endpoints = options.pop("endpoints", None) or Endpoints()
        lifecycles = Lifecycles(config, self.store, endpoints, clock, {}, shadow, picker)
        self.joiner = Joiner(
            lifecycles,
            self.records.append,
            picker=picker,
            **{"abandon_after": 3600.0, "monotonic": lambda: self.now, **options},
        )

    def take(self, lines: Iterable[bytes]) -> Joined:
        """Takes lines; returns itself."""
        for each in lines:
            self.joiner.take(parse_entry(each))
        return self

    @property
    def loads(self) -> dict[str, Load]:
        """Endpoints with load."""
        return {label: load for label, load in self.store.loads().items() if load.requests}
