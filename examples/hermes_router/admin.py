"""Adds and removes endpoints at run time."""

from __future__ import annotations

from datetime import datetime, timezone

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from hermes_router.config import describe_endpoint, parse_endpoint
from hermes_router.datastore import Datastore, Endpoint
from hermes_router.endpoint import EndpointEvent, EndpointEventType, NamespacedName
from hermes_router.errors import InvalidFieldError, error_response, invalid_request
from hermes_router.openai_request import parse_object


class Admin:
    """The handlers below `/admin`."""

    def __init__(self, datastore: Datastore) -> None:
        self._datastore = datastore

    def routes(self) -> list[Route]:
        """The routes to mount."""
        return [
            Route("/admin/endpoints", self._list, methods=["GET"]),
            Route("/admin/endpoints", self._add, methods=["POST"]),
            Route("/admin/endpoints/{namespace}/{name}", self._remove, methods=["DELETE"]),
        ]

    async def _list(self, _: Request) -> Response:
        return JSONResponse({"endpoints": [_status(endpoint) for endpoint in self._datastore]})

    async def _add(self, request: Request) -> Response:
        try:
            metadata = parse_endpoint(parse_object(await request.body()))
        except InvalidFieldError as error:
            return invalid_request(error)
        self._datastore.apply(EndpointEvent(EndpointEventType.ADD_OR_UPDATE, metadata))
        return JSONResponse(describe_endpoint(metadata), 201)

    async def _remove(self, request: Request) -> Response:
        name = NamespacedName(request.path_params["namespace"], request.path_params["name"])
        endpoint = self._datastore.get(name)
        if endpoint is None:
            known = ", ".join(str(other.metadata.namespaced_name) for other in self._datastore)
            message = f"endpoint {name} is unknown; there are: {known or 'none'}"
            return error_response(404, message, kind="not_found_error")
        self._datastore.apply(EndpointEvent(EndpointEventType.DELETE, endpoint.metadata))
        return Response(status_code=204)


def _status(endpoint: Endpoint) -> dict[str, object]:
    metrics = endpoint.metrics
    age = None
    if metrics is not None:
        age = (datetime.now(timezone.utc) - metrics.update_time).total_seconds()
    return {
        **describe_endpoint(endpoint.metadata),
        "reachable": endpoint.reachable,
        "inflightRequests": endpoint.inflight_requests,
        "inflightTokens": endpoint.inflight_tokens,
        "metricsAgeSeconds": age,
        "models": sorted(endpoint.models),
    }
