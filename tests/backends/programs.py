"""The real backends, each a process that can crash and be restarted."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
from demo.processes import Processes
from opentelemetry.proto.trace.v1.trace_pb2 import TracesData

from tests.backends.spans import traces_data
from tests.ports import free_port
from tests.waiting import eventually

ROOT = Path(__file__).parents[2]
PROGRAMS = ROOT / ".cache/backends"
CONFIGURATIONS = ROOT / "collector"

GRPC, HTTP_PROTOBUF = "grpc", "http/protobuf"

HTTP = httpx.Client(timeout=30, trust_env=False)


def program(name: str) -> str:
    """Return the path of a program built by `scripts/install-backends`."""
    path = PROGRAMS / name
    assert path.exists(), f"{path} is missing: run scripts/install-backends"
    return str(path)


def validate(configurations: Sequence[Path], environment: Mapping[str, str]) -> str:
    """Return the errors of `otelcol validate` for merged configurations; "" if valid."""
    done = subprocess.run(
        [program("otelcol"), "validate", *_config_arguments(configurations)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout + done.stderr if done.returncode else ""


class Service:
    """One program; after a restart it listens on the same ports."""

    def __init__(
        self,
        processes: Processes,
        logs: Path,
        name: str,
        command: Sequence[str],
        environment: Mapping[str, str],
        health: str,
    ) -> None:
        self.name = name
        self._processes = processes
        self._log = logs / f"{name}.log"
        self._command = command
        self._environment = environment
        self._health = health

    def start(self) -> None:
        """Start it; return when it serves."""
        self._processes.start(self.name, self._command, {**os.environ, **self._environment})
        eventually(self._healthy, what=f"{self.name} serves; it said: {self.log()[-2_000:]}")

    def stop(self) -> None:
        """End it as an update would."""
        self._processes.stop(self.name)

    def kill(self) -> None:
        """End it as a crash would."""
        self._processes.kill(self.name)

    def log(self) -> str:
        """Return its output so far."""
        return self._log.read_text(errors="replace")

    def _healthy(self) -> bool:
        with suppress(httpx.TransportError):
            return HTTP.get(self._health).is_success
        return False


class Collector(Service):
    """An OpenTelemetry Collector.

    Attributes:
        grpc: Address for OTLP over gRPC, `host:port`.
        http: Address for OTLP over HTTP, `host:port`.
    """

    def __init__(
        self,
        processes: Processes,
        folder: Path,
        name: str,
        configurations: Sequence[Path],
        environment: Mapping[str, str],
    ) -> None:
        self.grpc, self.http, health, self._telemetry = (_address() for _ in range(4))
        super().__init__(
            processes,
            folder,
            name,
            [program("otelcol"), *_config_arguments(configurations)],
            {
                "OTLP_GRPC_ENDPOINT": self.grpc,
                "OTLP_HTTP_ENDPOINT": self.http,
                "HEALTH_ENDPOINT": health,
                "TELEMETRY_HOST": "127.0.0.1",
                "TELEMETRY_PORT": _port(self._telemetry),
                "QUEUE_DIRECTORY": str(folder / f"{name}-queue"),
                **environment,
            },
            f"http://{health}",
        )

    def exporting(self, protocol: str, host: str = "http://127.0.0.1") -> dict[str, str]:
        """Return the standard variables with which a router exports to it.

        Args:
            protocol: `GRPC` or `HTTP_PROTOBUF`.
            host: A URL without a port.
        """
        port = _port(self.grpc if protocol == GRPC else self.http)
        return {
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"{host}:{port}",
            "OTEL_EXPORTER_OTLP_PROTOCOL": protocol,
        }

    def metric(self, name: str) -> float:
        """Return the sum of one of its own metrics over all labels; 0 if it does not exist yet."""
        lines = HTTP.get(f"http://{self._telemetry}/metrics").text.splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))


class Jaeger(Service):
    """Jaeger v2, with its traces in memory.

    Attributes:
        grpc: Address for OTLP over gRPC, `host:port`.
        query: URL of its query API.
    """

    def __init__(
        self,
        processes: Processes,
        folder: Path,
        name: str,
        environment: Mapping[str, str],
        configuration: Path = CONFIGURATIONS / "local/jaeger.yaml",
    ) -> None:
        self.grpc, http, health, telemetry, query, query_grpc = (_address() for _ in range(6))
        self.query = f"http://{query}"
        super().__init__(
            processes,
            folder,
            name,
            [program("jaeger"), "--config", str(configuration)],
            {
                "OTLP_GRPC_ENDPOINT": self.grpc,
                "OTLP_HTTP_ENDPOINT": http,
                "HEALTH_ENDPOINT": health,
                "TELEMETRY_HOST": "127.0.0.1",
                "TELEMETRY_PORT": _port(telemetry),
                "QUERY_HTTP_ENDPOINT": query,
                "QUERY_GRPC_ENDPOINT": query_grpc,
                "JAEGER_UI_CONFIG": str(CONFIGURATIONS / "jaeger-ui.json"),
                **environment,
            },
            f"http://{health}/status",
        )

    def traces(self, service: str) -> TracesData:
        """Return all traces of a service in the last hour, from the query API."""
        now = time.time()
        response = HTTP.get(
            f"{self.query}/api/v3/traces",
            params={
                "query.service_name": service,
                "query.start_time_min": _rfc3339(now - 3_600),
                "query.start_time_max": _rfc3339(now + 60),
                "query.num_traces": 20_000,
                "query.raw_traces": True,
            },
        )
        if response.status_code == httpx.codes.NOT_FOUND:
            return TracesData()
        response.raise_for_status()
        return traces_data(response.json()["result"])


class Prometheus(Service):
    """A Prometheus that accepts OTLP.

    Attributes:
        url: URL of its API.
        otlp_metrics: URL for metrics over OTLP.
    """

    def __init__(self, processes: Processes, folder: Path, configuration: Path) -> None:
        address = _address()
        self.url = f"http://{address}"
        self.otlp_metrics = f"{self.url}/api/v1/otlp/v1/metrics"
        command = [
            program("prometheus"),
            f"--config.file={configuration}",
            f"--web.listen-address={address}",
            f"--storage.tsdb.path={folder / 'prometheus-data'}",
            "--web.enable-otlp-receiver",
            "--enable-feature=exemplar-storage",
            "--query.lookback-delta=2m",
        ]
        super().__init__(processes, folder, "prometheus", command, {}, f"{self.url}/-/ready")

    def query(self, expression: str) -> list[dict[str, Any]]:
        """Return the samples of an instant query, each with `metric` and `value`."""
        response = HTTP.get(f"{self.url}/api/v1/query", params={"query": expression})
        assert response.is_success, response.text
        result: list[dict[str, Any]] = response.json()["data"]["result"]
        return result


class Kafka(Service):
    """One node of Kafka, broker and controller at once; its data outlives a crash.

    Attributes:
        broker: Its address, `host:port`.
    """

    def __init__(self, processes: Processes, folder: Path) -> None:
        self.broker, controller = _address(), _address()
        self._properties = folder / "kafka.properties"
        settings = {
            "process.roles": "broker,controller",
            "node.id": "1",
            "controller.quorum.voters": f"1@{controller}",
            "listeners": f"PLAINTEXT://{self.broker},CONTROLLER://{controller}",
            "advertised.listeners": f"PLAINTEXT://{self.broker}",
            "controller.listener.names": "CONTROLLER",
            "log.dirs": str(folder / "kafka-data"),
            "offsets.topic.replication.factor": "1",
            "transaction.state.log.replication.factor": "1",
            "transaction.state.log.min.isr": "1",
            "group.initial.rebalance.delay.ms": "0",
        }
        self._properties.write_text("".join(f"{key}={value}\n" for key, value in settings.items()))
        command = [program("kafka"), "kafka.Kafka", str(self._properties)]
        super().__init__(processes, folder, "kafka", command, {}, "")

    def format(self) -> None:
        """Prepare its folder, once."""
        tool = [program("kafka"), "kafka.tools.StorageTool", "format", "--config"]
        cluster = ["--cluster-id", "MkU3OEVBNTcwNTJENDM2Qk"]
        done = subprocess.run(
            [*tool, str(self._properties), *cluster], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr

    def _healthy(self) -> bool:
        host, _, port = self.broker.rpartition(":")
        with suppress(OSError), socket.create_connection((host, int(port)), timeout=1):
            return True
        return False


class Backends:
    """Makes the programs, and stops them at the end.

    Args:
        folder: Folder for their logs, queues and data.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.processes = Processes(folder)

    def collector(
        self, *configurations: str | Path, name: str = "collector", **environment: str
    ) -> Collector:
        """Start a collector.

        Args:
            configurations: Merged in this order; relative paths are in `collector/`.
            name: Name of its log and its queue.
            environment: Variables of the configurations.
        """
        paths = [CONFIGURATIONS / configuration for configuration in configurations]
        return _started(Collector(self.processes, self.folder, name, paths, environment))

    def jaeger(self, name: str = "jaeger", **environment: str) -> Jaeger:
        """Start Jaeger; the name is that of its log."""
        return _started(Jaeger(self.processes, self.folder, name, environment))

    def prometheus(self, configuration: Path | None = None) -> Prometheus:
        """Start Prometheus, with an empty configuration by default."""
        if configuration is None:
            configuration = self.folder / "prometheus.yml"
            configuration.write_text("")
        return _started(Prometheus(self.processes, self.folder, configuration))

    def kafka(self) -> Kafka:
        """Start a node of Kafka."""
        kafka = Kafka(self.processes, self.folder)
        kafka.format()
        return _started(kafka)

    def stop(self) -> None:
        """Stop all programs."""
        self.processes.stop()


def _started(service: Any) -> Any:
    service.start()
    return service


def _config_arguments(configurations: Sequence[Path]) -> list[str]:
    return [f"--config={configuration}" for configuration in configurations]


def _address() -> str:
    return f"127.0.0.1:{free_port()}"


def _port(address: str) -> str:
    return address.rpartition(":")[2]


def _rfc3339(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
