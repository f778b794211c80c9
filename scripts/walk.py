"""Counts how often one request passes from one file of the package to another.

Run with `python -m scripts.walk`. It follows the second of two equal requests, with the hooks
and with the handle, from the router's first call to the line in the record file. A call on any
thread from one file of the package to another is a change; calls of other libraries in between do
not count. It also names the module with the most imports.
"""

from __future__ import annotations

import ast
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import FrameType, SimpleNamespace
from typing import Any

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.trace import TracerProvider

import otel_lifecycle
from otel_lifecycle import (
    Endpoint,
    EndpointMetrics,
    PersistenceConfig,
    RequestLifecycleTracker,
    RequestStart,
    Route,
    RouteEndpoint,
    TrackerConfig,
)
from otel_lifecycle.tracking.scheduling import PD_GROUP_KEY

PACKAGE = str(Path(otel_lifecycle.__file__).parent)

Step = tuple[str, str]


class Walk:
    """The changes between files while `counting` is set."""

    def __init__(self) -> None:
        self.counting = False
        self.steps: list[Step] = []

    def __call__(self, frame: FrameType, event: str, _: object) -> None:
        """Handle a call, as the function passed to `sys.setprofile`."""
        if not self.counting or event != "call":
            return
        entered = _file(frame)
        if entered is None:
            return
        caller = frame.f_back
        while caller is not None and _file(caller) is None:
            caller = caller.f_back
        left = "the router" if caller is None else _file(caller)
        if left != entered:
            self.steps.append((str(left), entered))


def _file(frame: FrameType) -> str | None:
    """Return the package's file of a frame; a compiled setter belongs to its compiler's."""
    name = frame.f_code.co_filename
    if not name.startswith(PACKAGE):
        return None
    return name.removeprefix(PACKAGE + "/").partition(".py")[0]


def through_the_handle(tracker: RequestLifecycleTracker) -> None:
    """A stream through a prefill and a decode endpoint."""
    route = Route(_endpoint("leader"), _endpoint("prefill"), _endpoint("decode"))
    start = RequestStart(request_id="r", model="m", route=route, input_tokens=9, streaming=True)
    with tracker.track(start) as tracked:
        tracked.chunk()
        tracked.chunk()
        tracked.complete(output_tokens=2)


def through_the_hooks(tracker: RequestLifecycleTracker) -> None:
    """The same with objects shaped like the seed's."""
    request = SimpleNamespace(
        request_id="r",
        target_model="m",
        tokenized_prompt=SimpleNamespace(token_ids=range(9)),
    )
    group = SimpleNamespace(
        selected_prefill_pod=SimpleNamespace(endpoint=_scheduled("prefill", None)),
        selected_decode_pod=SimpleNamespace(endpoint=_scheduled("decode", None)),
    )
    leader = _scheduled("leader", group)
    result = SimpleNamespace(
        primary_profile_name="p",
        profile_results={"p": SimpleNamespace(target_endpoints=[leader])},
    )
    tracker.pre_request(request, result)  # type: ignore[arg-type]
    for is_last in (False, False, True):
        usage = SimpleNamespace(completion_tokens=2)
        response = SimpleNamespace(end_of_stream=is_last, usage=usage)
        tracker.response_body(request, response, leader.metadata)  # type: ignore[arg-type]


def _endpoint(name: str) -> RouteEndpoint:
    return RouteEndpoint(
        Endpoint("llm", name, "10.0.0.7", "8000"), EndpointMetrics(running_requests=3)
    )


def _scheduled(name: str, group: object) -> Any:
    return SimpleNamespace(
        metadata=Endpoint("llm", name, "10.0.0.7", "8000"),
        metrics=EndpointMetrics(running_requests=3),
        get={PD_GROUP_KEY: group}.get,
    )


def walk(request: Callable[[RequestLifecycleTracker], None]) -> list[Step]:
    """Return the file changes for one request."""
    counted = Walk()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "records.jsonl")
        threading.setprofile(counted)
        tracker = RequestLifecycleTracker(
            TrackerConfig(persistence=PersistenceConfig(enabled=True, output_path=str(path))),
            TracerProvider(shutdown_on_exit=False),
            MeterProvider(shutdown_on_exit=False),
        )
        sys.setprofile(counted)
        try:
            request(tracker)  # make everything that is made only once
            tracker.flush()
            counted.counting = True
            request(tracker)
            tracker.flush()
            counted.counting = False
        finally:
            sys.setprofile(None)
            threading.setprofile(None)
        tracker.close()
        assert len(path.read_text("utf-8").splitlines()) == 2, "the request was not tracked"
    return counted.steps


def imports() -> Counter[str]:
    """Return how many modules of the package each module imports."""
    counts: Counter[str] = Counter()
    for path in Path(PACKAGE).rglob("*.py"):
        modules: set[str] = set()
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(
                "otel_lifecycle"
            ):
                for alias in node.names:
                    name = f"{node.module}.{alias.name}".partition(".")[2]
                    file = Path(PACKAGE, *name.split("."))
                    is_module = file.with_suffix(".py").exists() or file.is_dir()
                    modules.add(name if is_module else str(node.module))
        counts[str(path.relative_to(PACKAGE).with_suffix(""))] = len(modules)
    return counts


def main() -> None:
    """Print the counts."""
    for request in (through_the_hooks, through_the_handle):
        steps = walk(request)
        files = {file for step in steps for file in step}
        print(f"{request.__name__}: {len(steps)} changes between {len(files)} files")
        for (left, entered), times in Counter(steps).most_common():
            print(f"  {times:3} {left} -> {entered}")
    counts = imports()
    counts.pop("__init__", None)
    for name, count in counts.most_common(3):
        print(f"{name} imports {count} modules")


if __name__ == "__main__":
    main()
