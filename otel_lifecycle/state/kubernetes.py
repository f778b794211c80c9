"""Lists pods by label, to find the pod and node of an address, and the exporters.

It sends plain requests to the Kubernetes API with the token of the service account, which needs
permission to `list` pods in the namespaces concerned.
"""

from __future__ import annotations

import asyncio
import os
import ssl
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import urlencode

import msgspec

from otel_lifecycle.config.collection import CollectionConfig
from otel_lifecycle.runtime.logs import get_logger
from otel_lifecycle.state.fetch import JSON, Fetcher, ScrapeError
from otel_lifecycle.state.matching import Pod
from otel_lifecycle.state.targets import Target, bracketed

_logger = get_logger(__name__)

_INTERVAL_SECONDS = 10.0
_TIMEOUT_SECONDS = 5.0
_MAX_BYTES = 64 * 1024 * 1024  # thousands of pods
ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")


class _Spec(msgspec.Struct, rename="camel"):
    node_name: str = ""


class _Status(msgspec.Struct, rename={"pod_ip": "podIP", "host_ip": "hostIP"}):
    pod_ip: str = ""
    host_ip: str = ""


class _Metadata(msgspec.Struct):
    name: str
    namespace: str


class _Item(msgspec.Struct):
    metadata: _Metadata
    spec: _Spec
    status: _Status


class _PodList(msgspec.Struct):
    items: list[_Item] = []


class Pods:
    """The pods in the last answer of the Kubernetes API; a failed request changes nothing.

    Attributes:
        by_address: The engine pods, by IP address.
        exporters: The exporter pods, as targets.
    """

    def __init__(self, config: CollectionConfig) -> None:
        self.by_address: Mapping[str, Pod] = {}
        self.exporters: Sequence[Target] = ()
        self._config = config
        self._account = ACCOUNT
        self._problem = ""

    async def run(self) -> None:
        """Update the pods repeatedly until cancelled; return at once if no pods are selected."""
        if not (self._config.engine_pods or self._config.exporter_pods):
            return
        host = os.environ.get("KUBERNETES_SERVICE_HOST", "kubernetes.default.svc")
        port = os.environ.get("KUBERNETES_SERVICE_PORT", "443")
        api = f"https://{bracketed(host)}:{port}"
        while True:
            try:
                async with Fetcher(
                    ssl.create_default_context(cafile=self._account / "ca.crt"),
                    timeout=_TIMEOUT_SECONDS,
                    concurrency=2,
                    max_bytes=_MAX_BYTES,
                ) as fetcher:
                    await self._update(fetcher, api)
                self._log_change("")
            except (ScrapeError, OSError, msgspec.MsgspecError) as error:
                self._log_change(str(error))
            await asyncio.sleep(_INTERVAL_SECONDS)

    async def _update(self, fetcher: Fetcher, api: str) -> None:
        config = self._config
        if config.engine_pods:
            pods = await self._list(fetcher, api, config.engine_namespace, config.engine_pods)
            shared = Counter(pod.address for pod in pods)
            # An address that pods share, such as the host's, does not identify a pod.
            by_address = {
                pod.address: pod
                if shared[pod.address] == 1
                else msgspec.structs.replace(pod, namespace="", name="")
                for pod in pods
            }
            if by_address != self.by_address:
                self.by_address = by_address
        if config.exporter_pods:
            pods = await self._list(fetcher, api, config.exporter_namespace, config.exporter_pods)
            self.exporters = [
                Target(
                    config.exporter_source,
                    f"http://{bracketed(pod.address)}:{config.exporter_port}/metrics",
                    hosts=(pod.node, pod.node_address),
                )
                for pod in pods
            ]

    async def _list(
        self, fetcher: Fetcher, api: str, namespace: str, selector: str
    ) -> Sequence[Pod]:
        if not namespace:
            namespace = (self._account / "namespace").read_text("utf-8").strip()
        running = {"labelSelector": selector, "fieldSelector": "status.phase=Running"}
        url = f"{api}/api/v1/namespaces/{namespace}/pods?{urlencode(running)}"
        content = await fetcher.read(url, str(self._account / "token"), JSON)
        return [
            Pod(
                item.metadata.namespace,
                item.metadata.name,
                item.status.pod_ip,
                item.spec.node_name,
                item.status.host_ip,
            )
            for item in msgspec.json.decode(content, type=_PodList).items
            if item.status.pod_ip
        ]

    def _log_change(self, problem: str) -> None:
        if problem != self._problem:
            self._problem = problem
            if problem:
                _logger.warning("Kubernetes API: %s; keeping the known pods", problem)
            else:
                _logger.info("Kubernetes API: requests succeed again")
