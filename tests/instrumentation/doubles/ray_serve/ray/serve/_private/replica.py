import asyncio
import contextvars
import pickle
from contextlib import contextmanager


class UserCallableWrapper:
    """Runs a deployment's code: an ASGI application, or any coroutine function."""

    def __init__(self, target):
        self.target = target

    async def call_http_entrypoint(self, request_metadata, status_code_callback, scope, receive):
        messages = asyncio.Queue()
        task = asyncio.create_task(self.target(scope, receive, messages.put))
        task.add_done_callback(lambda _: messages.put_nowait(None))
        try:
            while (message := await messages.get()) is not None:
                yield [message]
        finally:
            task.cancel()
        if not task.cancelled():
            task.result()


class Replica:
    """A separate process: it receives only pickled metadata."""

    def __init__(self, target):
        self._user_callable_wrapper = UserCallableWrapper(target)

    @contextmanager
    def _wrap_request(self, request_metadata, ray_trace_ctx=None):
        yield

    async def shutdown(self):
        pass

    async def handle_request_streaming(self, request_metadata, scope, receive):
        with self._wrap_request(request_metadata):
            async for messages in self._user_callable_wrapper.call_http_entrypoint(
                request_metadata, None, scope, receive
            ):
                yield messages

    async def handle_request(self, request_metadata, *args, **kwargs):
        with self._wrap_request(request_metadata):
            return await self._user_callable_wrapper.target(*args, **kwargs)


async def call(replica, metadata, *args, **kwargs):
    """The call of a deployment handle after a replica is chosen."""
    metadata = pickle.loads(pickle.dumps(metadata))
    coroutine = replica.target.handle_request(metadata, *args, **kwargs)
    return await contextvars.Context().run(asyncio.create_task, coroutine)


async def stream(replica, metadata, scope, receive):
    """The same for an HTTP request."""
    metadata, items = pickle.loads(pickle.dumps(metadata)), asyncio.Queue()

    async def serve():
        try:
            async for messages in replica.target.handle_request_streaming(metadata, scope, receive):
                await items.put((messages, None))
        except BaseException as error:
            await items.put((None, error))
        else:
            await items.put((None, None))

    task = contextvars.Context().run(asyncio.create_task, serve())
    try:
        while (item := await items.get()) != (None, None):
            if item[1] is not None:
                raise item[1]
            yield item[0]
    finally:
        task.cancel()
        await asyncio.wait([task])
