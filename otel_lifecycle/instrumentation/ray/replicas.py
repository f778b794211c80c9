"""Converts what Ray Serve's routers know about replicas and applications."""

from __future__ import annotations

import importlib
import itertools
import threading
from collections.abc import Iterable, Iterator
from typing import Any

from otel_lifecycle.model import (
    Candidate,
    Endpoint,
    EndpointEvent,
    EndpointEventType,
    EndpointMetrics,
    RouteEndpoint,
)
from otel_lifecycle.runtime.forks import repair_in_forked_child
from otel_lifecycle.runtime.logs import get_logger

_logger = get_logger(__name__)


class Replica(Endpoint, frozen=True):
    """A replica of a deployment: an actor without its own inference port.

    Attributes:
        replica: `application/deployment/replica`.
    """

    replica: str = ""

    @property
    def id(self) -> str:
        """`ray://application/deployment/replica`."""
        return f"ray://{self.replica}"

    @property
    def identity(self) -> str:
        """The key of its load counter."""
        return self.id


def replica_endpoint(replica: Any) -> Replica:
    """Return the endpoint of a `RunningReplica`."""
    replica_id = replica.replica_id
    deployment = replica_id.deployment_id
    info = getattr(replica, "_replica_info", None)
    return Replica(
        address=getattr(info, "node_ip", None) or "",
        replica=f"{deployment.app_name}/{deployment.name}/{replica_id.unique_id}",
    )


def chosen_replica(router: Any, replica: Any) -> RouteEndpoint:
    """Return a replica with the metrics that the router has of it.

    Its queue length is what Ray calls ongoing requests. The deployment's routing stats may contain
    anything; those with the names of `EndpointMetrics` are used.
    """
    stats = replica.routing_stats
    known = {name: stats[name] for name in EndpointMetrics.__struct_fields__ if name in stats}
    known.setdefault("running_requests", router.replica_queue_len_cache.get(replica.replica_id))
    return RouteEndpoint(replica_endpoint(replica), EndpointMetrics(**known))


def considered(router: Any) -> Iterator[Candidate]:
    """Return the running replicas, with the queue lengths that the router knows.

    Whatever replicas a policy proposes, Ray takes the one with the shortest queue of them.
    """
    for replica in router.curr_replicas.values():
        length = router.replica_queue_len_cache.get(replica.replica_id)
        known = chosen_replica(router, replica)
        yield Candidate(known.endpoint, None if length is None else -length, metrics=known.metrics)


def asks_for_inference(pending_request: Any) -> bool:
    """Return whether a call has messages or a prompt, as Ray's prefix-aware policy checks."""
    named = pending_request.kwargs
    return any(
        name in named
        or any(
            name in argument if isinstance(argument, dict) else hasattr(argument, name)
            for argument in (*pending_request.args, *named.values())
        )
        for name in ("messages", "prompt")
    )


class ReplicaEvents:
    """Finds out which replicas joined or left a router."""

    def __init__(self) -> None:
        self._known: dict[Any, Replica] = {}

    def update(self, replicas: Iterable[Any]) -> list[EndpointEvent]:
        """Return the changes from the previous call's replicas to these."""
        now = {replica.replica_id: replica_endpoint(replica) for replica in replicas}
        before, self._known = self._known, now
        return [
            *(
                EndpointEvent(EndpointEventType.DELETE, endpoint)
                for replica_id, endpoint in before.items()
                if replica_id not in now
            ),
            *(
                EndpointEvent(EndpointEventType.ADD_OR_UPDATE, endpoint)
                for replica_id, endpoint in now.items()
                if replica_id not in before
            ),
        ]


class Applications:
    """The applications that have more than one deployment; thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._questions = itertools.count()
        # By application: the newest question that was answered, and whether there are several.
        self._answers: dict[str, tuple[int, bool]] = {}
        repair_in_forked_child(self, Applications._after_fork_in_child)

    def has_several(self, application: str) -> bool:
        """Return whether it has more than one deployment; False while that is unknown."""
        _, several = self._answers.get(application, (0, False))
        return several

    def look_up(self, application: str) -> None:
        """Ask Serve's controller, on another thread, for the deployments of an application."""
        threading.Thread(
            target=self._look_up, args=(application,), name="otel-lifecycle-ray", daemon=True
        ).start()

    def _after_fork_in_child(self) -> None:
        """Replace the lock: a thread of the parent may have held it."""
        self._lock = threading.Lock()

    def _look_up(self, application: str) -> None:
        try:
            serve: Any = importlib.import_module("ray.serve")
            question = next(self._questions)
            deployments = serve.status().applications[application].deployments
        except Exception:
            _logger.debug(
                "asking Serve for the deployments of %s failed", application, exc_info=True
            )
            return
        answer = question, len(deployments) > 1
        with self._lock:  # one that was overtaken may be from before there were several
            self._answers[application] = max(answer, self._answers.get(application, answer))
