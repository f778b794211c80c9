from dataclasses import dataclass
from types import SimpleNamespace


@dataclass(frozen=True)
class DeploymentID:
    name: str
    app_name: str = "default"


@dataclass(frozen=True)
class ReplicaID:
    unique_id: str
    deployment_id: DeploymentID


@dataclass
class RequestMetadata:
    request_id: str
    is_http_request: bool = False
    tracing_context: dict | None = None


@dataclass
class PendingRequest:
    args: list
    kwargs: dict
    metadata: RequestMetadata


class RunningReplica:
    def __init__(self, replica_id, target, routing_stats=None):
        self.replica_id = replica_id
        self.routing_stats = routing_stats or {}
        self.target = target
        self._replica_info = SimpleNamespace(node_ip="10.0.0.1")
