"""How an instrumentation attaches to a router, and detaches from it."""

from __future__ import annotations

import gc
import importlib
import logging
import sys
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF

from otel_lifecycle import RequestLifecycleTracker
from otel_lifecycle.config import environment_variables
from otel_lifecycle.instrumentation.base import InstrumentorOptions, RouterInstrumentor, Wrapper
from otel_lifecycle.testing import InMemoryTelemetry
from tests.routes import start

TOY_ROUTER = """
class Router:
    def dispatch(self, request_id):
        if request_id == "bad":
            raise KeyError(request_id)
        return f"dispatched {request_id}"
"""


class ToyInstrumentor(RouterInstrumentor):
    """Notes the requests it observes, and wants a method that does not exist."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, RequestLifecycleTracker]] = []

    def wrappers(self) -> Mapping[str, Mapping[str, Wrapper]]:
        def dispatch(wrapped: Any, _instance: Any, args: Any, kwargs: Any) -> Any:
            if self.tracker is not None:
                self.seen.append((args[0], self.tracker))
            return wrapped(*args, **kwargs)

        return {
            "toy_router": {"Router.dispatch": dispatch, "Router.retry": dispatch},
        }


@pytest.fixture
def toy_router(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A router that can be imported, and has not been."""
    (tmp_path / "toy_router.py").write_text(TOY_ROUTER)
    monkeypatch.syspath_prepend(str(tmp_path))
    for variable in environment_variables():
        monkeypatch.delenv(variable, raising=False)
    yield "toy_router"
    sys.modules.pop("toy_router", None)


@pytest.fixture
def instrumentor() -> Iterator[ToyInstrumentor]:
    """The singleton instrumentor, uninstrumented at the end."""
    ToyInstrumentor._instance = None
    ToyInstrumentor._hooked = False
    instrumentor = ToyInstrumentor()
    yield instrumentor
    if instrumentor.is_instrumented_by_opentelemetry:
        instrumentor.uninstrument()


def load(name: str) -> ModuleType:
    """Import the router."""
    return importlib.import_module(name)


def logged(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What the package has logged; objects that other tests have left may log for themselves."""
    return [
        record.getMessage() for record in caplog.records if record.name.startswith("otel_lifecycle")
    ]


def test_hooks_wait_for_the_import(toy_router: str, instrumentor: ToyInstrumentor) -> None:
    """Instrumenting imports nothing; the router is wrapped when it is imported."""
    instrumentor.instrument()
    assert toy_router not in sys.modules

    assert load(toy_router).Router().dispatch("request-1") == "dispatched request-1"
    assert [request for request, _ in instrumentor.seen] == ["request-1"]


def test_router_imported_before(toy_router: str, instrumentor: ToyInstrumentor) -> None:
    """A router that is already loaded is wrapped at once."""
    router = load(toy_router).Router()
    instrumentor.instrument()

    router.dispatch("request-1")
    assert [request for request, _ in instrumentor.seen] == ["request-1"]


def test_exceptions_pass(toy_router: str, instrumentor: ToyInstrumentor) -> None:
    """The router's exceptions are raised unchanged."""
    instrumentor.instrument()

    with pytest.raises(KeyError, match="bad"):
        load(toy_router).Router().dispatch("bad")


def test_uninstrument(toy_router: str, instrumentor: ToyInstrumentor) -> None:
    """Uninstrumenting leaves nothing behind, and bound methods that were kept pass through."""
    module = load(toy_router)
    original = module.Router.dispatch
    instrumentor.instrument()
    kept = module.Router().dispatch
    tracker = instrumentor.tracker
    assert tracker is not None
    instrumentor.uninstrument()

    assert module.Router.dispatch is original
    assert kept("request-1") == "dispatched request-1"
    assert (instrumentor.seen, instrumentor.tracker) == ([], None)


def test_instrument_again(toy_router: str, instrumentor: ToyInstrumentor) -> None:
    """After uninstrumenting, the router can be instrumented again and is wrapped once."""
    instrumentor.instrument()
    module = load(toy_router)
    instrumentor.uninstrument()
    instrumentor.instrument()

    module.Router().dispatch("request-1")
    assert [request for request, _ in instrumentor.seen] == ["request-1"]


def test_many_cycles(
    toy_router: str,
    instrumentor: ToyInstrumentor,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """However often a router is instrumented, no object and no processor is left."""
    monkeypatch.setenv("OTEL_LIFECYCLE_PERSISTENCE_OUTPUT_PATH", str(tmp_path / "records.jsonl"))
    caplog.set_level(logging.ERROR, "otel_lifecycle")  # keep the captured reference
    telemetry = InMemoryTelemetry(ALWAYS_OFF)
    load(toy_router)

    def objects_after(cycles: int) -> int:
        for _ in range(cycles):
            instrumentor.instrument(
                tracer_provider=telemetry.tracer_provider, meter_provider=telemetry.meter_provider
            )
            assert instrumentor.tracker is not None
            instrumentor.tracker.track(start()).complete()
            instrumentor.uninstrument()
            telemetry.metrics()
        gc.collect()
        return len(gc.get_objects())

    objects_after(20)
    counts = [objects_after(40) for _ in range(4)]
    # Threads of other tests may make some meanwhile, but hardly each time.
    assert min(after - before for before, after in pairwise(counts)) < 40
    telemetry.shutdown()


def test_missing_hook(
    toy_router: str, instrumentor: ToyInstrumentor, caplog: pytest.LogCaptureFixture
) -> None:
    """A method that another version of the router lacks causes one warning."""
    instrumentor.instrument()
    load(toy_router)

    assert logged(caplog) == [
        "toy_router.Router.retry does not exist: what it would tell is missing"
    ]


def test_bad_setting(
    toy_router: str,
    instrumentor: ToyInstrumentor,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An invalid setting is one clear error, and the router runs uninstrumented."""
    monkeypatch.setenv("OTEL_LIFECYCLE_STALE_AFTER", "5")
    instrumentor.instrument()

    assert load(toy_router).Router().dispatch("request-1") == "dispatched request-1"
    assert instrumentor.seen == []
    (message,) = logged(caplog)
    assert message.startswith(
        "otel-lifecycle does not instrument the router: "
        "invalid parameters: staleAfter must be a valid duration"
    )


def test_record_file_that_cannot_be_written(
    toy_router: str,
    instrumentor: ToyInstrumentor,
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
) -> None:
    """An error that appears when the tracker is made is reported as clearly."""
    instrumentor.instrument(store_name=str(tmp_path), persistence_output_path=str(tmp_path))

    assert load(toy_router).Router().dispatch("request-1") == "dispatched request-1"
    assert instrumentor.seen == []
    (message,) = logged(caplog)
    assert message.startswith("otel-lifecycle does not instrument the router: ")
    assert str(tmp_path) in message


def test_misspelt_variables(
    toy_router: str,
    instrumentor: ToyInstrumentor,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An unknown variable causes one warning, however often it is read."""
    monkeypatch.setenv("OTEL_LIFECYCLE_STOR_NAME", "router")
    monkeypatch.setenv("OTEL_LIFECYCLE_XYZ", "1")
    for _ in range(2):
        instrumentor.instrument()
        instrumentor.uninstrument()
    instrumentor.instrument()

    assert logged(caplog) == [
        "OTEL_LIFECYCLE_STOR_NAME is no setting of otel-lifecycle: "
        "did you mean OTEL_LIFECYCLE_STORE_NAME?",
        "OTEL_LIFECYCLE_XYZ is no setting of otel-lifecycle",
    ]


def test_options(
    toy_router: str, instrumentor: ToyInstrumentor, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Options of `instrument` override the environment, and nothing is made before an import."""
    monkeypatch.setenv("OTEL_LIFECYCLE_STORE_NAME", "environment")
    monkeypatch.setenv("OTEL_LIFECYCLE_MAX_INFLIGHT", "7")
    telemetry = InMemoryTelemetry()
    instrumentor.instrument(
        tracer_provider=telemetry.tracer_provider,
        meter_provider=telemetry.meter_provider,
        store_name="argument",
        persistence_output_path=str(tmp_path / "records.jsonl"),
    )

    assert (instrumentor.tracker, list(tmp_path.glob("*.jsonl"))) == (None, [])
    load(toy_router)
    tracker = instrumentor.tracker
    assert tracker is not None
    assert (
        tracker.config.store_name,
        tracker.config.max_inflight,
        tracker.config.persistence.enabled,
    ) == ("argument", 7, True)
    telemetry.shutdown()


def test_options_and_variables() -> None:
    """Each variable has an argument of `instrument()`, except the settings file."""
    variables = {name.removeprefix("OTEL_LIFECYCLE_").lower() for name in environment_variables()}

    assert set(InstrumentorOptions.__dataclass_fields__) == variables - {"config_file"}


def test_no_thread_can_be_started(
    toy_router: str,
    instrumentor: ToyInstrumentor,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """If setting up fails, the router is still imported, and the log has the reason."""

    def fail(*_: Any) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr("otel_lifecycle.instrumentation.base._reported", set())
    monkeypatch.setattr("otel_lifecycle.instrumentation.providers.shut_down_at_exit", fail)
    instrumentor.instrument()

    assert load(toy_router).Router().dispatch("request-1") == "dispatched request-1"
    assert instrumentor.seen == []
    assert "can't start new thread" in caplog.text


def test_class_that_cannot_be_wrapped(
    toy_router: str, tmp_path: Path, instrumentor: ToyInstrumentor
) -> None:
    """A compiled class that cannot be wrapped is left alone."""
    (tmp_path / "toy_router.py").write_text(
        "class Immutable(type):\n"
        "    def __setattr__(self, name, value):\n"
        "        raise TypeError('immutable')\n"
        + TOY_ROUTER.replace("class Router:", "class Router(metaclass=Immutable):")
    )
    instrumentor.instrument()

    assert load(toy_router).Router().dispatch("request-1") == "dispatched request-1"
    assert instrumentor.seen == []
