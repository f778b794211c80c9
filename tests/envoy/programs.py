"""A real Envoy with a preset, and simulated engines behind it."""

from __future__ import annotations

import os
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from tests.envoy.picker import Picker
from tests.ports import free_port
from tests.waiting import eventually

ROOT = Path(__file__).parents[2]
VERSIONS = {"1.38": "1.40.0", "1.37": "1.37.0", "1.36": "1.36.4"}


class Envoy:
    """One Envoy; `close` ends it.

    Args:
        folder: For its files.
        preset: The preset's name, `1.38` or `1.38-reporter`.
        picker: The picker.
        collector_port: Where spans go.
        by_header: Whether the picker says its choice in a header.
        retries: How often Envoy tries again.
        observer_port: Where logs go.
        http2: Whether it speaks HTTP/2 to engines as well, where clients do.
        change: Changes the HTTP connection manager.
    """

    def __init__(
        self,
        folder: Path,
        preset: str,
        picker: Picker,
        *,
        collector_port: int = 9,
        by_header: bool = True,
        retries: int = 0,
        observer_port: int = 9,
        http2: bool = False,
        change: Callable[[dict[str, Any]], None] | None = None,
    ) -> None:
        self.picker = picker
        self.log = folder / "access.log"
        self.port, self._admin = free_port(), free_port()
        text = (ROOT / "collector" / "envoy" / f"envoy-{preset}.yaml").read_text("utf-8")
        config = yaml.safe_load(text.replace("/var/log/envoy/access.log", str(self.log)))
        config["admin"] = {"address": _address(self._admin)}
        resources = config["static_resources"]
        listener = resources["listeners"][0]
        listener["address"] = _address(self.port)
        engines, *others = resources["clusters"]
        ports = {"picker": picker.port, "collector": collector_port, "observer": observer_port}
        for cluster in others:
            port = ports[cluster["name"]]
            (locality,) = cluster["load_assignment"]["endpoints"]
            locality["lb_endpoints"][0]["endpoint"]["address"] = _address(port)
            cluster["type"] = "STATIC"
        if not by_header:
            key = {"key": "envoy.lb", "path": [{"key": "x-gateway-destination-endpoint"}]}
            engines["original_dst_lb_config"] = {"metadata_key": key}
        if http2:
            name = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
            engines["typed_extension_protocol_options"] = {
                name: {
                    "@type": f"type.googleapis.com/{name}",
                    "use_downstream_protocol_config": {"http2_protocol_options": {}},
                }
            }
        http = listener["filter_chains"][0]["filters"][0]["typed_config"]
        if retries:
            route = http["route_config"]["virtual_hosts"][0]["routes"][0]["route"]
            route["retry_policy"] = {
                "retry_on": "5xx,reset,connect-failure",
                "num_retries": retries,
            }
        if change is not None:
            change(http)
        self.config = folder / "envoy.yaml"
        self.config.write_text(yaml.safe_dump(config))
        version = VERSIONS[preset.partition("-")[0]]
        self._output = (folder / "envoy.out").open("wb")
        self._process = subprocess.Popen(
            [
                ROOT / ".cache" / f"envoy-{version}" / "bin" / "envoy",
                *("--config-path", self.config, "--concurrency", "2", "--log-level", "warning"),
                *("--file-flush-interval-msec", "100", "--disable-hot-restart"),
            ],
            stdout=self._output,
            stderr=self._output,
        )
        eventually(self._is_ready, what="Envoy answers")

    def stats(self) -> dict[str, int]:
        """Envoy's own counters of requests."""
        text = self._ask("/stats?filter=http.inference.downstream_rq_&format=json")
        values: list[dict[str, Any]] = yaml.safe_load(text)["stats"]
        return {each["name"].rpartition(".")[2]: each["value"] for each in values if "name" in each}

    def cpu_seconds(self) -> float:
        """The CPU time that it has used."""
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def reopen_logs(self) -> None:
        """Has Envoy open its log under its name again."""
        self._ask("/reopen_logs", post=True)

    def close(self) -> None:
        """Ends it; what it has logged is written."""
        self._process.terminate()
        self._process.wait(60)
        self._output.close()

    def _is_ready(self) -> bool:
        assert self._process.poll() is None, (self.config.parent / "envoy.out").read_text()
        try:
            return b"LIVE" in self._ask("/ready").encode()
        except OSError:
            return False

    def _ask(self, path: str, *, post: bool = False) -> str:
        url = f"http://127.0.0.1:{self._admin}{path}"
        with urllib.request.urlopen(url, b"" if post else None, 30) as response:
            return response.read().decode()


class Engine:
    """A simulated engine; all its requests have the same fault.

    Args:
        folder: For its log.
        fault: One of `engine_sim`'s.
        tpot_ms: Milliseconds from one token to the next.
    """

    def __init__(self, folder: Path, fault: str = "none", tpot_ms: int = 1) -> None:
        self.port = free_port()
        self.address = f"127.0.0.1:{self.port}"
        self._output = (folder / f"engine-{self.port}.out").open("wb")
        options = ("--max-running", "512", "--tpot-ms", str(tpot_ms), "--npus", "0", "--model", "m")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "engine_sim", "--port", str(self.port), *options],
            cwd=ROOT / "examples",
            stdout=self._output,
            stderr=self._output,
        )
        eventually(self._is_ready, what="the engine answers")
        body = f'{{"kind":"{fault}"}}'.encode()
        with urllib.request.urlopen(f"http://{self.address}/admin/fault", body, 30):
            pass

    def close(self) -> None:
        """Ends it."""
        self._process.kill()
        self._process.wait()
        self._output.close()

    def _is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://{self.address}/health", timeout=5):
                return True
        except OSError:
            return False


def _address(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}
