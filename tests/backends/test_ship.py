"""`otel-lifecycle ship` sends Jaeger the same spans as a router's own exporter."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from demo.environment import SERVICE_NAME

from tests.backends.certificates import HOST, make_certificates
from tests.backends.programs import GRPC, HTTP_PROTOBUF, Backends, Jaeger
from tests.backends.routers import DISAGGREGATED, Routers, requests
from tests.backends.spans import PlainSpan, as_recorded, plain_spans, recorded_spans
from tests.cli.command import Command
from tests.waiting import eventually

pytestmark = pytest.mark.backends

BATCH_SPANS = 512  # the most that a killed `ship` may have sent without saving its checkpoint
RESOURCE = {
    "OTEL_RESOURCE_ATTRIBUTES": "service.instance.id=router-0,deployment.environment.name=t"
}


@pytest.fixture
def ship(tmp_path: Path) -> Iterator[Callable[..., Command]]:
    """Ship the records of a file until the test ends or it is told to stop."""
    with ExitStack() as stack:

        def ship(path: Path, environment: dict[str, str]) -> Command:
            arguments = ["ship", "--checkpoint", tmp_path / "checkpoint.json", path]
            command = Command(*arguments, environment={**RESOURCE, **environment})
            stack.callback(command.close)
            return command

        yield ship


def told(jaeger: Jaeger, count: int) -> list[PlainSpan]:
    """Return Jaeger's data, once there is enough."""
    eventually(
        lambda: len(plain_spans(jaeger.traces(SERVICE_NAME))) >= count,
        what=f"{count} spans in Jaeger",
    )
    return plain_spans(jaeger.traces(SERVICE_NAME))


def spans_by_id(jaeger: Jaeger) -> dict[str, PlainSpan]:
    """Return Jaeger's spans, each once."""
    return {span["span_id"]: span for span in as_recorded(jaeger.traces(SERVICE_NAME))}


@pytest.mark.parametrize("protocol", [GRPC, HTTP_PROTOBUF])
def test_as_the_exporter(
    backends: Backends,
    routers: Routers,
    ship: Callable[..., Command],
    tmp_path: Path,
    protocol: str,
) -> None:
    """Through files, ship, collector and Jaeger come the exporter's spans, also over TLS."""
    certificates = make_certificates(tmp_path, mutual=True)
    jaegers = backends.jaeger(), backends.jaeger("jaeger-of-ship")
    exported = backends.collector("local/collector.yaml", TRACES_ENDPOINT=jaegers[0].grpc)
    shipped = backends.collector(
        "local/collector.yaml",
        "tls.yaml",
        name="shipped",
        TRACES_ENDPOINT=jaegers[1].grpc,
        **certificates.collector,
    )
    router = routers.start(DISAGGREGATED, **RESOURCE, **exported.exporting(GRPC))
    ship(
        router.path,
        {
            **shipped.exporting(protocol, f"https://{HOST}"),
            **certificates.router,
            "OTEL_EXPORTER_OTLP_COMPRESSION": "gzip",
        },
    )

    count = len(router.records(router.send(requests(30)).total()))

    def spans(jaeger: Jaeger) -> list[dict[str, Any]]:
        found = told(jaeger, count)
        for span in found:
            span["resource"].pop("telemetry.auto.version", None)  # of opentelemetry-instrument
        return found

    assert spans(jaegers[1]) == spans(jaegers[0])


def test_no_exporter_in_the_router(
    backends: Backends, routers: Routers, ship: Callable[..., Command]
) -> None:
    """A router without an exporter has all its spans, although each process is killed.

    Agent, `ship` and router get `kill -9`: every request arrives, and duplicates are counted.
    """
    jaeger = backends.jaeger()
    gateway = backends.collector(
        "gateway/config.yaml",
        name="gateway",
        TRACES_ENDPOINT=jaeger.grpc,
        SAMPLING_PERCENTAGE="100",
    )
    agent = backends.collector(
        "agent/config.yaml",
        name="agent",
        GATEWAY_HOST="127.0.0.1",
        GATEWAY_PORT=gateway.grpc.rpartition(":")[2],
    )
    router = routers.start(DISAGGREGATED, **RESOURCE, OTEL_TRACES_EXPORTER="none")
    first = ship(router.path, agent.exporting(GRPC))
    count = router.send(requests(20, prefix="first-")).total()
    agent.kill()
    count += router.send(requests(10, prefix="down-")).total()
    agent.start()
    first.process.kill()
    count += router.send(requests(10, prefix="up-")).total()
    records = router.records(count)
    router.kill()
    ship(router.path, agent.exporting(GRPC))

    eventually(lambda: len(spans_by_id(jaeger)) == count, what=f"{count} spans in Jaeger")

    assert list(spans_by_id(jaeger).values()) == recorded_spans(records)
    twice = gateway.metric("otelcol_receiver_accepted_spans") - count
    assert 0 <= twice <= BATCH_SPANS
