from ray.serve._private.common import RequestMetadata
from ray.serve._private.replica import stream


def get_http_response_status(exc, request_timeout_s, request_id):
    return 503 if isinstance(exc, ValueError) else 500


class HTTPProxy:
    def __init__(self, router):
        self.router = router

    async def __call__(self, scope, receive, send):
        request_id = dict(scope["headers"])[b"x-request-id"].decode()
        metadata, started = RequestMetadata(request_id, is_http_request=True), False
        try:
            replica = await self.router.assign_request(metadata)
            async for messages in stream(replica, metadata, scope, receive):
                for message in messages:
                    await send(message)
                    started = True
        except BaseException as error:
            status = get_http_response_status(error, None, request_id)
            if not started:
                await send({"type": "http.response.start", "status": status, "headers": []})
                await send({"type": "http.response.body", "body": str(error).encode()})
