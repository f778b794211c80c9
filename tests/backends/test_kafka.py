"""Kafka between agents and gateways: an outage of either costs no trace."""

from __future__ import annotations

import shutil
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.backends.programs import GRPC, Backends
from tests.backends.routers import Routers
from tests.backends.test_outages import PHASE_SECONDS, check_all_arrive, load

pytestmark = [
    pytest.mark.backends,
    pytest.mark.skipif(
        shutil.which("mvn") is None, reason="Kafka comes by Maven, which is missing"
    ),
]


def test_nothing_is_lost_behind_kafka(backends: Backends, routers: Routers) -> None:
    """With Kafka killed and restarted, and a gateway too, Jaeger has every request in the end."""
    jaeger, kafka = backends.jaeger(), backends.kafka()
    gateway = backends.collector(
        "gateway/config.yaml",
        "gateway/kafka.yaml",
        name="gateway",
        TRACES_ENDPOINT=jaeger.grpc,
        SAMPLING_PERCENTAGE="100",
        KAFKA_BROKER=kafka.broker,
    )
    agent = backends.collector(
        "agent/config.yaml",
        "agent/kafka.yaml",
        name="agent",
        GATEWAY_HOST="127.0.0.1",
        KAFKA_BROKER=kafka.broker,
    )
    router = routers.start(**agent.exporting(GRPC))
    plan = load(120)
    with ThreadPoolExecutor() as pool:
        sending = pool.submit(router.send, plan)
        time.sleep(PHASE_SECONDS)
        gateway.stop()
        time.sleep(PHASE_SECONDS)
        kafka.kill()
        kafka.start()
        sending.result()
        gateway.start()

    check_all_arrive(jaeger, router, len(plan))
