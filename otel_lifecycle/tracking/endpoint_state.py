"""What the store keeps of one endpoint: its counter, who charged it, what was last known of it."""

from __future__ import annotations

import msgspec

from otel_lifecycle.model import Endpoint, EndpointMetrics, NPUState, sanitize


class Collected(msgspec.Struct, frozen=True):
    """What was collected of an endpoint; replaced as a whole, and never changed.

    Attributes:
        metrics: Of its engine.
        npu: Of its devices; the status is already judged by the age of each value.
        gpu: Whether the devices are GPUs.
        judged_ns: When that was judged, Unix nanoseconds.
    """

    metrics: EndpointMetrics | None = None
    npu: NPUState | None = None
    gpu: bool = False
    judged_ns: int = 0


class EndpointState:
    """The counter of one endpoint, and what was last known of it."""

    __slots__ = (
        "collected",
        "endpoint",
        "id",
        "label",
        "live",
        "metrics",
        "npu",
        "requests",
        "tokens",
    )

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.id = sanitize.text(endpoint.id)
        self.label = sanitize.text(endpoint.label)
        self.tokens = 0
        self.requests = 0
        self.live = True
        self.metrics: EndpointMetrics | None = None
        self.npu: NPUState | None = None
        self.collected: Collected | None = None


class Lease:
    """What one request charges to one endpoint, from `charge` to `give_back`.

    A signal handler may give it back before it is charged. It cannot run in the middle of either:
    they call nothing.
    """

    __slots__ = ("charged", "given_back", "role", "state", "tokens")

    def __init__(self, role: str, state: EndpointState, tokens: int) -> None:
        self.role = role
        self.state = state
        self.tokens = tokens
        self.charged = False
        self.given_back = False

    def charge(self) -> None:
        """Puts the charge on the counter."""
        if self.given_back:
            return
        self.charged = True
        self.state.requests += 1
        self.state.tokens += self.tokens

    def give_back(self) -> bool:
        """Takes the charge off the counter it was put on; False when there is none."""
        self.given_back = True
        if not self.charged:
            return False
        self.charged = False
        self.state.requests -= 1
        self.state.tokens -= self.tokens
        return True
