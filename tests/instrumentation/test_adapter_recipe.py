"""The recipe for an adapter, step by step; a pattern for the tests of other adapters."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Iterator
from importlib.metadata import entry_points
from pathlib import Path

import pytest
from own_router import adapter
from own_router.adapter import OwnRouterInstrumentor
from own_router.router import Engine, ShortestQueue, create_app

from otel_lifecycle import instrumentation
from otel_lifecycle.instrumentation.base import RouterInstrumentor
from tests.instrumentation.exchanges import (
    endpoint,
    metrics,
    pick,
    picks,
    plain,
    streamed,
    whole_answer,
)
from tests.instrumentation.test_generic import Observed

ROOT = Path(__file__).parents[2]
ID = {"x-request-id": "request-1"}


class Adapted(Observed):
    """The router with engines; `asgi_router` follows its requests, the adapter adds details."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.adapter = OwnRouterInstrumentor()
        self.adapter.instrument(
            tracer_provider=self.telemetry.tracer_provider,
            meter_provider=self.telemetry.meter_provider,
            store_name=str(path),
            persistence_output_path=str(path),
        )

    def stop(self) -> None:
        """Stop everything."""
        super().stop()
        self.adapter.uninstrument()


@pytest.fixture
def router(tmp_path: Path) -> Iterator[Adapted]:
    """The instrumented router, without engines."""
    adapted = Adapted(tmp_path / "records.jsonl")
    yield adapted
    adapted.stop()


def test_what_only_the_router_knows(router: Adapted) -> None:
    """The only record combines the adapter's values with those of the traffic."""
    busy, idle = router.add_engine("busy"), router.add_engine("idle")
    engines = [Engine(busy.url, waiting=7), Engine(idle.url, waiting=2)]
    router.serve(create_app(engines, ShortestQueue()))
    assert router.post(headers=ID).status_code == 200

    waiting = {**metrics(0, 2, None), "runningRequestsSize": None}
    record = router.record()
    assert plain(record) == streamed(
        endpoint(idle.url, metrics=waiting),
        **whole_answer(),
        policy="ShortestQueue",
        candidates=2,
    )
    idle_first = (idle.url, {"score": -2.0}), (busy.url, {"score": -7.0})
    assert picks(record) == [pick("leader", *idle_first, rank=1, margin=5.0)]


def test_error_of_the_router(router: Adapted) -> None:
    """The router's own exception reaches it, and its request is rejected."""
    router.serve(create_app([], ShortestQueue()))
    assert router.post(headers=ID).status_code == 503

    record = router.record()
    assert (record.outcome, record.policy, record.candidates) == ("rejected", "", None)


def test_another_release_of_the_router(router: Adapted, monkeypatch: pytest.MonkeyPatch) -> None:
    """A value that cannot be read is missing; the rest of the record is there."""
    monkeypatch.setattr(adapter, "endpoint_at", None)
    engine = router.add_engine("engine")
    router.serve(create_app([Engine(engine.url)], ShortestQueue()))
    assert router.post(headers=ID).status_code == 200

    assert plain(router.record()) == streamed(engine.url, **whole_answer(), policy="ShortestQueue")


def test_uninstrumented(router: Adapted) -> None:
    """After uninstrumenting the router's class is unchanged."""
    assert hasattr(ShortestQueue.pick, "__wrapped__")
    router.adapter.uninstrument()

    assert not hasattr(ShortestQueue.pick, "__wrapped__")


def test_every_adapter_has_an_entry_point() -> None:
    """Every instrumentation of the package is loaded by an entry point."""
    modules = [
        importlib.import_module(module.name)
        for module in pkgutil.walk_packages(
            instrumentation.__path__, f"{instrumentation.__name__}."
        )
    ]
    adapters = {
        adapter
        for module in modules
        for adapter in vars(module).values()
        if isinstance(adapter, type)
        and issubclass(adapter, RouterInstrumentor)
        and adapter.__module__ == module.__name__
        and not inspect.isabstract(adapter)
    }
    loaded = {
        entry.load()
        for entry in entry_points(group="opentelemetry_instrumentor")
        if entry.value.startswith(instrumentation.__name__)
    }

    assert adapters == loaded


def test_the_recipe_is_the_example() -> None:
    """The code in `CONTRIBUTING.md` is the code tested above."""
    _, _, recipe = (ROOT / "CONTRIBUTING.md").read_text("utf-8").partition("## Add an adapter")
    code = recipe.partition("```python\n")[2].partition("```")[0]

    assert code
    assert code in Path(adapter.__file__).read_text("utf-8")
