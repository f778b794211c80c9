"""The live state: requests in flight, what they charge to which endpoint, and stores by name.

Every request charges its counted endpoints through leases. A lease keeps the *counter instance* it
was charged to and the amount, so giving it back is exact whatever happened in between: an endpoint
that was deleted and joined again starts at zero and never goes below.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Hashable, Mapping
from typing import TYPE_CHECKING, ClassVar

from otel_lifecycle.config import CollectionConfig, ConfigError, PersistenceConfig, TrackerConfig
from otel_lifecycle.config.settings import missing_extra
from otel_lifecycle.config.tracker import Writer
from otel_lifecycle.model import Endpoint, Load, RouteEndpoint, sanitize
from otel_lifecycle.model.endpoint_state import EndpointState, EndpointView
from otel_lifecycle.model.record import Reroute
from otel_lifecycle.records import LifecycleSpanProcessor
from otel_lifecycle.runtime.clock import Deadline
from otel_lifecycle.runtime.forks import repair_in_forked_child
from otel_lifecycle.runtime.logs import get_logger
from otel_lifecycle.tracking.dispatch import Dispatch
from otel_lifecycle.tracking.lifecycle import Lifecycle

if TYPE_CHECKING:
    from otel_lifecycle.state.collector import Collector

_logger = get_logger(__name__)

_MAX_ENDPOINTS = 10_000


class LifecycleStore:
    """Requests in flight and load per endpoint; thread-safe.

    Trackers with the same store name share one (`LifecycleStore.shared`). A forked child starts
    with no requests in flight: those belong to the parent.

    Attributes:
        name: Its name.
        persistence: Where its records go.
        sink: What takes them.
        writer: What writes them.
        collection: What is collected of its endpoints.
        collector: What collects it.
        ignored: Calls and values that were not used, by reason.
        on_deleted: Called, without waiting, with the label of an endpoint that is forgotten.
    """

    _shared: ClassVar[dict[str, LifecycleStore]] = {}
    _shared_lock: ClassVar[threading.RLock] = threading.RLock()

    def __init__(self, name: str) -> None:
        self.name = name
        self.persistence = PersistenceConfig()
        self.sink: LifecycleSpanProcessor | None = None
        self.writer: Writer = "thread"
        self.collection = CollectionConfig()
        self.collector: Collector | None = None
        self.ignored: Counter[str] = Counter()
        self.on_deleted: list[Callable[[str], None]] = []
        # Reentrant: a signal handler may close the tracker while the same thread is in here.
        self._lock = threading.RLock()
        self._users = 0
        self._inflight: dict[str, Lifecycle] = {}
        self._endpoints: dict[Hashable, EndpointState] = {}
        repair_in_forked_child(self, LifecycleStore._after_fork_in_child)

    @classmethod
    def shared(cls, config: TrackerConfig) -> LifecycleStore:
        """The store that a tracker's settings name, made if there is none; `release` it when done.

        Where they ask for it, its records are written and the state of its endpoints is collected;
        else the store keeps what other trackers asked for.

        Raises:
            ConfigError: Others use the store with other settings, the record file cannot be
                written, or what collects cannot be started.
        """
        with cls._shared_lock:
            store = cls._shared.get(config.store_name)
            if store is None:
                store = cls(config.store_name)
            store._persist(config)
            cls._shared[config.store_name] = store
            store._users += 1
            try:
                store._collect(config)
            except BaseException:
                store.release(0.0)
                raise
            return store

    def _persist(self, config: TrackerConfig) -> None:
        persistence = config.persistence
        if not persistence.enabled:
            if self.sink is None and config.writer == "process":
                _logger.warning("writer=process does nothing without a record file")
            return
        if self.sink is None:
            self.sink = LifecycleSpanProcessor(persistence, self.name, config.writer)
            self.persistence = persistence
            self.writer = config.writer
        elif config.writer != self.writer and "writer" in config.model_fields_set:
            raise ConfigError(
                f"writer of store {self.name!r} is already set to {self.writer!r}, and cannot be "
                f"{config.writer!r} as well; use one setting or two store names"
            )
        elif not persistence.is_served_by(self.persistence):
            raise ConfigError(
                f"persistence of store {self.name!r} is already set to {self.persistence}, "
                f"and cannot be {persistence} as well; use one setting or two store names"
            )

    def _collect(self, config: TrackerConfig) -> None:
        collection = config.collection
        if not collection.enabled:
            return
        if self.collector is None:
            try:  # needs an extra, and takes long
                from otel_lifecycle.state.collector import Collector
            except ImportError as error:
                raise missing_extra("collection.enabled", error) from error
            self.collector = Collector(config, self.endpoints)
            self.collection = collection
        elif self.collection != collection:
            raise ConfigError(
                f"collection of store {self.name!r} is already set to {self.collection}, and "
                f"cannot be {collection} as well; use one setting or two store names"
            )

    def release(self, timeout: float) -> None:
        """Gives the store back; the last user's call closes what it has, within `timeout`."""
        with self._shared_lock:
            self._users -= 1
            if self._users > 0:
                return
            if self._shared.get(self.name) is self:
                del self._shared[self.name]
        deadline = Deadline(timeout)
        if self.collector is not None:
            self.collector.close(timeout / 2)
        if self.sink is not None:
            self.sink.close(deadline.seconds_left)

    @property
    def active_requests(self) -> int:
        """How many requests are in flight."""
        return len(self._inflight)

    def load(self, endpoint: Endpoint) -> Load:
        """What is in flight on an endpoint; zero on an unknown one."""
        with self._lock:
            state = self._endpoints.get(endpoint.identity)
            return Load(state.tokens, state.requests) if state is not None else Load()

    def loads(self) -> dict[str, Load]:
        """What is in flight on each known endpoint, by `Endpoint.label`."""
        with self._lock:
            loads: dict[str, Load] = {}
            for state in self.endpoints():
                other = loads.get(state.label, Load())
                loads[state.label] = Load(
                    state.tokens + other.tokens, state.requests + other.requests
                )
            return loads

    def endpoints(self) -> list[EndpointState]:
        """The known endpoints; their numbers go on changing."""
        with self._lock:
            return [state for state in self._endpoints.values() if state.listed]

    @property
    def states(self) -> Mapping[Hashable, EndpointState]:
        """The live state of each endpoint by `Endpoint.identity`, listed or not."""
        return self._endpoints

    def look(self, *endpoints: RouteEndpoint, model: object = "") -> list[EndpointView]:
        """Endpoints of a route as a model's requests see them, made safe to record.

        They need not be known before.
        """
        views: list[EndpointView] = []
        for raw in endpoints:
            endpoint = raw.endpoint
            state = self._endpoints.get(endpoint.identity)
            if state is None or (state.endpoint is not endpoint and _has_moved(state, endpoint)):
                with self._lock:
                    state = self._state(endpoint)
            views.append(state.view(raw, model))
        return views

    def ignore(self, reason: str) -> None:
        """Counts a call or a value that was not used."""
        with self._lock:
            self.ignored[reason] += 1

    def find(self, request_id: str) -> Lifecycle | None:
        """The request in flight under an id."""
        return self._inflight.get(request_id)

    def owned_by(self, owner: object) -> list[Lifecycle]:
        """The requests in flight that `owner` started."""
        with self._lock:
            return [entry for entry in self._inflight.values() if entry.owner is owner]

    def start(self, lifecycle: Lifecycle) -> Lifecycle | None:
        """Charges a new request to its endpoints.

        Returns:
            The request in flight under the same id, which this one supersedes. Its load is given
            back; the caller has its owner finish it.
        """
        with self._lock:
            superseded = self._inflight.get(lifecycle.request_id)
            if superseded is not None:
                # First, so that its load does not show in the new request's snapshot.
                superseded.give_back()
            try:
                lifecycle.charge(self._successor)
            except BaseException:  # from a signal handler
                lifecycle.give_back()
                raise
            self._inflight[lifecycle.request_id] = lifecycle
            return superseded

    def reroute(self, lifecycle: Lifecycle, to: Dispatch, rerouted: tuple[Reroute, ...]) -> bool:
        """Charges a request in flight to the endpoints of another route instead.

        Args:
            lifecycle: The request.
            to: What the router says now.
            rerouted: All its changes of route.

        Returns:
            False when the request has ended.
        """
        with self._lock:
            if lifecycle.finished:
                return False
            lifecycle.give_back()
            lifecycle.move(to, rerouted)
            lifecycle.charge(self._successor)
            if lifecycle.finished:  # by a signal handler, in the middle of this
                lifecycle.give_back()
            return not lifecycle.finished

    def first_chunk(self, lifecycle: Lifecycle, elapsed_ns: int, release: str) -> None:
        """Marks the first chunk of a stream, once, and gives back the leases it ends.

        A response that is not a stream has none. Where that was not known, a chunk before the end
        tells.

        Args:
            lifecycle: The request.
            elapsed_ns: Nanoseconds since its start.
            release: `prefill`, `all` or `none`.
        """
        with self._lock:
            if (
                lifecycle.finished
                or lifecycle.first_chunk_ns is not None
                or lifecycle.streaming is False
            ):
                return
            lifecycle.streaming = True
            lifecycle.first_chunk_ns = elapsed_ns
            lifecycle.end_prefill()
            if release == "all":
                lifecycle.give_back()
            # A prefill lease that also stands for the decode (one endpoint) is kept.
            elif release == "prefill" and len(lifecycle.leases) > 1:
                lifecycle.give_back("prefill")

    def first_byte(self, lifecycle: Lifecycle, elapsed_ns: int) -> None:
        """Marks the first byte, once, `elapsed_ns` after the start."""
        with self._lock:
            if not lifecycle.finished and lifecycle.first_byte_ns is None:
                lifecycle.first_byte_ns = elapsed_ns

    def finish(self, lifecycle: Lifecycle, by: object) -> bool:
        """Ends a request, and forgets it.

        Args:
            lifecycle: The request.
            by: The call that ends it, which may try again if it was interrupted.

        Returns:
            True to exactly one call, which then completes record and span.
        """
        with self._lock:
            if lifecycle.finished and lifecycle.finished_by is not by:
                return False
            lifecycle.finished_by = by
            lifecycle.finished = True
            self._forget(lifecycle)
            return True

    def forget(self, lifecycle: Lifecycle) -> None:
        """Gives back what is left of an ended request's load; may be repeated."""
        with self._lock:
            self._forget(lifecycle)

    def _forget(self, lifecycle: Lifecycle) -> None:
        lifecycle.handle = None
        lifecycle.give_back()
        request_id = lifecycle.request_id
        if self._inflight.get(request_id) is lifecycle:
            del self._inflight[request_id]

    def add_endpoint(self, endpoint: Endpoint) -> None:
        """Makes an endpoint known; a known one keeps its load."""
        with self._lock:
            self._state(endpoint).listed = True

    def delete_endpoint(self, endpoint: Endpoint) -> None:
        """Forgets an endpoint and its counter; requests in flight on it go on."""
        with self._lock:
            self._forget_endpoint(endpoint)

    def _successor(self, deleted: EndpointState) -> EndpointState:
        return self._state(deleted.endpoint)

    def _state(self, endpoint: Endpoint) -> EndpointState:
        identity = endpoint.identity
        state = self._endpoints.get(identity)
        if state is None:
            if len(self._endpoints) >= _MAX_ENDPOINTS:
                self._forget_idle()
            state = self._endpoints[identity] = EndpointState(endpoint)
        elif _has_moved(state, endpoint):
            state.endpoint = endpoint
        return state

    def _forget_idle(self) -> None:
        """Keeps memory bounded where no event ever says that an endpoint is gone."""
        for state in list(self._endpoints.values()):
            if state.requests == 0:
                self._forget_endpoint(state.endpoint)

    def _forget_endpoint(self, endpoint: Endpoint) -> None:
        state = self._endpoints.pop(endpoint.identity, None)
        if state is not None:
            state.delete()
        for listener in tuple(self.on_deleted):
            listener(sanitize.text(endpoint.label))

    @staticmethod
    def _unlock_shared(stores: type[LifecycleStore]) -> None:
        stores._shared_lock = threading.RLock()

    def _after_fork_in_child(self) -> None:
        self._lock = threading.RLock()
        for lifecycle in self._inflight.values():
            lifecycle.finished = True
        self._inflight.clear()
        for state in self._endpoints.values():
            state.tokens = state.requests = state.prefill_tokens = 0


def _has_moved(state: EndpointState, endpoint: Endpoint) -> bool:
    known = state.endpoint
    return known.address != endpoint.address or known.port != endpoint.port


# Of the class itself: its lock may be held while it has no stores.
repair_in_forked_child(LifecycleStore, LifecycleStore._unlock_shared)  # pyright: ignore[reportPrivateUsage]
