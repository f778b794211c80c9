"""The current endpoints, and what the router knows about each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from time import monotonic

from hermes_router.endpoint import (
    EndpointEvent,
    EndpointEventType,
    EndpointMetadata,
    EndpointMetrics,
    NamespacedName,
    NPUState,
)
from hermes_router.model import PrefixCacheMatchInfo
from hermes_router.prefix_index import PrefixIndex
from hermes_router.prompt import Prompt

DEFAULT_BLOCK_SIZE = 512
DEFAULT_CACHE_BLOCKS = 2_000
AVOID_SECONDS = 2.0


@dataclass(eq=False)
class Endpoint:
    """The live state of one endpoint.

    Attributes:
        metrics: The metrics of the last successful scrape; None before the first. So is `npu`.
        models: Names of the models it serves.
        inflight_requests: Requests sent by this router and not answered yet.
        inflight_tokens: Their prompt tokens that this endpoint still has to process.
        prefill_tokens: Those of requests without a first chunk, less what is believed cached.
    """

    metadata: EndpointMetadata
    metrics: EndpointMetrics | None = None
    npu: NPUState | None = None
    models: frozenset[str] = frozenset()
    inflight_requests: int = 0
    inflight_tokens: int = 0
    prefill_tokens: int = 0
    prefix_index: PrefixIndex = field(default_factory=lambda: PrefixIndex(DEFAULT_CACHE_BLOCKS))
    _avoid_until: float = 0.0

    @property
    def block_size(self) -> int:
        """Tokens per block of its KV cache."""
        return (self.metrics and self.metrics.cache_block_size) or DEFAULT_BLOCK_SIZE

    @property
    def reachable(self) -> bool:
        """Whether it is worth a try."""
        return monotonic() >= self._avoid_until

    def match(self, prompt: Prompt) -> PrefixCacheMatchInfo:
        """How much of a prompt it has probably cached."""
        return PrefixCacheMatchInfo(
            match_blocks=self.prefix_index.match(prompt.block_hashes(self.block_size)),
            total_blocks=prompt.block_count(self.block_size),
            block_size_tokens=self.block_size,
        )

    def avoid(self) -> None:
        """Avoid the endpoint for a short while, because it did not answer."""
        self._avoid_until = monotonic() + AVOID_SECONDS

    def update_metrics(self, metrics: EndpointMetrics) -> None:
        """Store new metrics."""
        self.metrics = metrics
        self.prefix_index.capacity = metrics.cache_num_blocks or DEFAULT_CACHE_BLOCKS


class Datastore:
    """All endpoints by name."""

    def __init__(self) -> None:
        self._endpoints: dict[NamespacedName, Endpoint] = {}

    def apply(self, event: EndpointEvent) -> None:
        """Add, change or remove an endpoint; running requests are not disturbed."""
        metadata = event.endpoint
        name = metadata.namespaced_name
        if event.type is EndpointEventType.DELETE:
            self._endpoints.pop(name, None)
            return
        known = self._endpoints.get(name)
        if known is not None and known.metadata.host_port == metadata.host_port:
            known.metadata = metadata
        else:  # a new process, whose cache is empty and whose load is zero
            self._endpoints[name] = Endpoint(metadata)

    def get(self, name: NamespacedName) -> Endpoint | None:
        """Return the endpoint of that name, if it exists."""
        return self._endpoints.get(name)

    def with_role(self, role: str) -> list[Endpoint]:
        """Return the endpoints with a role."""
        return [endpoint for endpoint in self if endpoint.metadata.role == role]

    def __iter__(self) -> Iterator[Endpoint]:
        return iter(list(self._endpoints.values()))
