import asyncio
import threading

from ray.serve._private.common import PendingRequest


class FirstRequestRouter:
    """A policy; Ray pickles its class by value."""

    def __init__(self, app_name):
        self.app_name = app_name
        self._handle_source = "PROXY"
        self.curr_replicas = {}
        self.replica_queue_len_cache = {}

    async def _choose_replica_for_request(self, pending_request, *, is_retry=False):
        choices = list(self.curr_replicas.values())
        if not choices:
            raise ValueError("no replica")
        return choices[1 if is_retry else 0]

    def update_replicas(self, replicas):
        self.curr_replicas = {replica.replica_id: replica for replica in replicas}


class AsyncioRouter:
    """Runs on a separate event loop, in another thread than the requests."""

    _loop = None

    def __init__(self, app_name, request_router_class=FirstRequestRouter):
        self.request_router = None
        self._app_name = app_name
        self._request_router_class = request_router_class
        self.rejections = 0
        if AsyncioRouter._loop is None:
            AsyncioRouter._loop = asyncio.new_event_loop()
            threading.Thread(target=AsyncioRouter._loop.run_forever, daemon=True).start()

    def update_deployment_config(self, deployment_config):
        if self.request_router is None:
            self.request_router = self._request_router_class(self._app_name)

    async def _route(self, pending_request):
        router = self.request_router
        replica = await router._choose_replica_for_request(pending_request, is_retry=False)
        for _ in range(self.rejections):
            replica = await router._choose_replica_for_request(pending_request, is_retry=True)
        return replica

    async def assign_request(self, metadata, *args, **kwargs):
        pending_request = PendingRequest(list(args), kwargs, metadata)
        future = asyncio.run_coroutine_threadsafe(self._route(pending_request), self._loop)
        return await asyncio.wrap_future(future)
