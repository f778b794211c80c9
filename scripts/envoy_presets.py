"""Generates the Envoy configurations in `collector/envoy`: `make docs`.

All write the same log, each by the means of its version: 1.38 reads the events of a stream with a
filter of its own, older ones with Lua; 1.36 has no time of the first byte of a body but Lua's.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
FOLDER = "collector/envoy"
VERSIONS = ("1.38", "1.37", "1.36")
OTLP = f"{FOLDER}/envoy-1.38-otlp.yaml"
LOG = "/var/log/envoy/access.log"

_TYPE = "type.googleapis.com/envoy."
_FILTERS = "extensions.filters.http."

_COMMON = {
    "v": "1",
    "type": "%ACCESS_LOG_TYPE%",
    "t": "%START_TIME(%s.%6f)%",
    "rid": "%REQ(X-REQUEST-ID)%",
    "conn": "%CONNECTION_ID%",
}
_START = {
    "sid": "%STREAM_ID%",
    "method": "%REQ(:METHOD)%",
    "path": "%PATH(NQ)%",
    "size": "%REQ(CONTENT-LENGTH)%",
}
_ROUTE = {
    "ep": "%REQ(X-GATEWAY-DESTINATION-ENDPOINT)%",
    "pf": "%REQ(X-PREFILLER-HOST-PORT)%",
    "up": "%UPSTREAM_REMOTE_ADDRESS%",
}
_END = {
    "now": "%EMIT_TIME(%s.%6f)%",
    "code": "%RESPONSE_CODE%",
    "flags": "%RESPONSE_FLAGS_LONG%",
    "dur_ms": "%DURATION%",
}
_RESULT = {
    "details": "%RESPONSE_CODE_DETAILS%",
    "reason": "%RESP(X-LLM-D-REQUEST-DROPPED-REASON)%",
    "attempts": "%UPSTREAM_REQUEST_ATTEMPT_COUNT%",
    "ct": "%RESP(CONTENT-TYPE)%",
    "tp": "%REQ(TRACEPARENT)%",
    "ts": "%REQ(TRACESTATE)%",
    "trace": "%TRACE_ID%",
    "up_tx_us": "%COMMON_DURATION(DS_RX_BEG:US_TX_BEG:us)%",
    "ttfb_body_us": "%COMMON_DURATION(DS_RX_BEG:US_RX_BODY_BEG:us)%",
    "e2e_us": "%COMMON_DURATION(DS_RX_BEG:DS_TX_END:us)%",
    "llm": "%DYNAMIC_METADATA(llm)%",
    "lb": "%DYNAMIC_METADATA(envoy.lb)%",
}

_LUA = """\
function envoy_on_response(handle)
  local first = nil
  for chunk in handle:bodyChunks() do
    if not first and chunk:length() > 0 then
      first = handle:timestampString(EnvoyTimestampResolution.MICROSECOND)
      handle:streamInfo():dynamicMetadata():set("llm", "first_us", first)
    end
  end
end
"""
_LUA_USAGE = """\
-- Reads the usage at the end of a response; nothing of its text is kept.
function envoy_on_response(handle)
  local first, tail = nil, ""
  local type = handle:headers():get("content-type") or ""
  for chunk in handle:bodyChunks() do
    local length = chunk:length()
    if length > 0 then
      if not first then
        first = handle:timestampString(EnvoyTimestampResolution.MICROSECOND)
        handle:streamInfo():dynamicMetadata():set("llm", "first_us", first)
      end
      local last = math.min(length, 1024)
      tail = string.sub(tail .. chunk:getBytes(length - last, last), -1024)
    end
  end
  local metadata = handle:streamInfo():dynamicMetadata()
  if string.find(type, "text/event-stream", 1, true) then
    metadata:set("llm", "done", string.find(tail, "[DONE]", 1, true) ~= nil)
  end
  for _, key in ipairs({"prompt_tokens", "completion_tokens", "cached_tokens"}) do
    local number = string.match(tail, '"' .. key .. '": *(%d+)')
    if number then metadata:set("llm", key, tonumber(number)) end
  end
  for _, key in ipairs({"id", "model"}) do
    local text = string.match(tail, '"' .. key .. '": *"([^"]*)"')
    if text then metadata:set("llm", key, text) end
  end
end
"""


@cache
def presets() -> dict[str, str]:
    """The text of each preset, by its path."""
    found: dict[str, str] = {}
    for version in VERSIONS:
        for reporter in (False, True):
            name = f"{FOLDER}/envoy-{version}{'-reporter' if reporter else ''}.yaml"
            found[name] = _heading(version, reporter) + _dump(_configuration(version, reporter))
    config = _configuration("1.38", False)
    _send_logs(config)
    found[OTLP] = _heading("1.38", False) + _OTLP_HEADING + _dump(config)
    return found


def snippets() -> dict[str, str]:
    """The text of what gateways are given instead of a configuration of Envoy, by its path."""
    found: dict[str, str] = {}
    for name, resources in (("envoy-gateway", _envoy_gateway()), ("istio", _istio())):
        text = yaml.dump_all(resources, Dumper=_Dumper, sort_keys=False, width=100)
        found[f"{FOLDER}/{name}.yaml"] = _SNIPPET_HEADING + text
    return found


_SNIPPET_HEADING = (
    "# Made by scripts/envoy_presets.py; docs/envoy.md explains what to change. Never run there.\n"
)
_GATEWAY = {"name": "inference-gateway", "namespace": "llm"}
_PLACE = LOG.rpartition("/")[0]


def _envoy_gateway() -> list[dict[str, Any]]:
    """For Envoy Gateway: the log of the ends of requests, and Lua for what passes."""
    setting = {
        "type": "Route",
        "format": {"type": "JSON", "json": _ending("1.38")},
        "sinks": [{"type": "File", "file": {"path": LOG}}],
    }
    volume = {"name": "access-log"}
    deployment = {
        "pod": {"volumes": [{**volume, "emptyDir": {}}]},
        "container": {"volumeMounts": [{**volume, "mountPath": _PLACE}]},
    }
    provider = {"type": "Kubernetes", "kubernetes": {"envoyDeployment": deployment}}
    return [
        {
            "apiVersion": "gateway.envoyproxy.io/v1alpha1",
            "kind": "EnvoyProxy",
            "metadata": _GATEWAY,
            "spec": {"telemetry": {"accessLog": {"settings": [setting]}}, "provider": provider},
        },
        {
            "apiVersion": "gateway.envoyproxy.io/v1alpha1",
            "kind": "EnvoyExtensionPolicy",
            "metadata": _GATEWAY,
            "spec": {
                "targetRefs": [
                    {
                        "group": "gateway.networking.k8s.io",
                        "kind": "Gateway",
                        "name": _GATEWAY["name"],
                    }
                ],
                "lua": [{"type": "Inline", "inline": _LUA_USAGE}],
            },
        },
    ]


def _istio() -> list[dict[str, Any]]:
    """For Istio: all that the preset of Envoy 1.37 has, as patches of the gateway's filters."""
    whole = _http("1.37", reporter=False)
    bodies, _, streams = _filters("1.37", reporter=False)
    manager = {key: whole[key] for key in ("@type", "access_log", "access_log_options")}
    router = whole["http_filters"][-1]
    filter_chain = {"filter": {"name": "envoy.filters.network.http_connection_manager"}}
    at_manager = {"context": "GATEWAY", "listener": {"filterChain": filter_chain}}
    sub_filter = {**filter_chain["filter"], "subFilter": {"name": router["name"]}}
    at_router = {"context": "GATEWAY", "listener": {"filterChain": {"filter": sub_filter}}}

    def patch(kind: str, match: dict[str, Any], operation: str, value: Any) -> dict[str, Any]:
        return {"applyTo": kind, "match": match, "patch": {"operation": operation, "value": value}}

    patches = [
        patch("NETWORK_FILTER", at_manager, "MERGE", {"typed_config": manager}),
        patch("HTTP_FILTER", at_manager, "INSERT_FIRST", bodies),
        patch("HTTP_FILTER", at_router, "INSERT_BEFORE", streams),
        patch("HTTP_FILTER", at_router, "MERGE", router),
    ]
    return [
        {
            "apiVersion": "networking.istio.io/v1alpha3",
            "kind": "EnvoyFilter",
            "metadata": _GATEWAY,
            "spec": {
                "targetRefs": [
                    {
                        "group": "gateway.networking.k8s.io",
                        "kind": "Gateway",
                        "name": _GATEWAY["name"],
                    }
                ],
                "configPatches": patches,
            },
        }
    ]


_OTLP_HEADING = "# The entries of the log go to `otel-lifecycle observe --otlp 4319`.\n"


def _send_logs(config: dict[str, Any]) -> None:
    """Has a configuration send its logs, instead of writing them to a file."""
    waiting: list[Any] = [config]
    while waiting:
        each = waiting.pop()
        if isinstance(each, list):
            waiting += each
        elif isinstance(each, dict):
            for name in ("access_log", "upstream_log"):
                for log in each.get(name, ()):
                    keys = log["typed_config"]["log_format"]["json_format"]
                    log["typed_config"] = _otlp_log(keys)
            waiting += each.values()
    config["static_resources"]["clusters"].append(_grpc_cluster("observer", "observer", 4319))


def _otlp_log(keys: dict[str, str]) -> dict[str, Any]:
    values = [{"key": key, "value": {"string_value": value}} for key, value in keys.items()]
    return _typed(
        "extensions.access_loggers.open_telemetry.v3.OpenTelemetryAccessLogConfig",
        common_config={
            "log_name": "otel-lifecycle",
            "transport_api_version": "V3",
            "grpc_service": {"envoy_grpc": {"cluster_name": "observer"}},
        },
        disable_builtin_labels=True,
        attributes={"values": values},
    )


class _Dumper(yaml.SafeDumper):
    """Writes text of several lines as such, and everything in full wherever it stands."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _represent(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _represent)


def _dump(config: dict[str, Any]) -> str:
    return yaml.dump(config, Dumper=_Dumper, sort_keys=False, width=100)


def main() -> None:
    """Writes the presets and the snippets."""
    for name, text in {**presets(), **snippets()}.items():
        path = ROOT / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")


def _heading(version: str, reporter: bool) -> str:
    newer = " and newer" if version == VERSIONS[0] else ""
    older = " and older" if version == VERSIONS[-1] else ""
    tokens = "the picker's request-attribute-reporter" if reporter else "what passes through Envoy"
    return (
        f"# Envoy {version}{newer}{older}; numbers of tokens come from {tokens}.\n"
        "# Made by scripts/envoy_presets.py; docs/envoy.md explains what to change.\n"
    )


def _configuration(version: str, reporter: bool) -> dict[str, Any]:
    return {
        "static_resources": {
            "listeners": [
                {
                    "name": "inference",
                    "address": _address("0.0.0.0", 8080),
                    "filter_chains": [
                        {"filters": [{"name": "http", "typed_config": _http(version, reporter)}]}
                    ],
                }
            ],
            "clusters": [
                {
                    "name": "engines",
                    "type": "ORIGINAL_DST",
                    "lb_policy": "CLUSTER_PROVIDED",
                    "connect_timeout": "2s",
                    "circuit_breakers": {
                        "thresholds": [
                            dict.fromkeys(
                                ("max_connections", "max_pending_requests", "max_requests"), 40000
                            )
                        ]
                    },
                    "original_dst_lb_config": {
                        "use_http_header": True,
                        "http_header_name": "x-gateway-destination-endpoint",
                    },
                },
                _grpc_cluster("picker", "picker", 9002),
                _grpc_cluster("collector", "otel-collector", 4317),
            ],
        }
    }


def _http(version: str, reporter: bool) -> dict[str, Any]:
    ending = _ending(version)
    router = _typed(
        f"{_FILTERS}router.v3.Router",
        upstream_log=[
            _log({**_COMMON, **_ROUTE}, "UpstreamPoolReady"),
            _log({**_COMMON, **_ROUTE, **_END}, "UpstreamEnd"),
        ],
        upstream_log_options={"flush_upstream_log_on_upstream_stream": True},
    )
    return _typed(
        "extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        stat_prefix="inference",
        generate_request_id=True,
        preserve_external_request_id=True,
        # The ids of clients need not be UUIDs, which Envoy would sample by.
        request_id_extension={
            "typed_config": _typed(
                "extensions.request_id.uuid.v3.UuidRequestIdConfig",
                pack_trace_reason=False,
                use_request_id_for_trace_sampling=False,
            )
        },
        http_protocol_options={"enable_trailers": True},
        access_log=[_log({**_COMMON, **_START}, "DownstreamStart"), _log(ending, "DownstreamEnd")],
        access_log_options={"flush_access_log_on_new_request": True},
        tracing={
            "random_sampling": {"value": 100},
            "provider": {
                "name": "envoy.tracers.opentelemetry",
                "typed_config": _typed(
                    "config.trace.v3.OpenTelemetryConfig",
                    service_name="envoy",
                    grpc_service={"envoy_grpc": {"cluster_name": "collector"}, "timeout": "1s"},
                ),
            },
        },
        route_config={
            "name": "inference",
            "virtual_hosts": [
                {
                    "name": "inference",
                    "domains": ["*"],
                    "include_request_attempt_count": True,
                    "routes": [
                        {
                            "match": {"prefix": "/"},
                            "route": {"cluster": "engines", "timeout": "0s"},
                        }
                    ],
                }
            ],
        },
        http_filters=[
            *_filters(version, reporter),
            {"name": "envoy.filters.http.router", "typed_config": router},
        ],
    )


def _ending(version: str) -> dict[str, str]:
    """What is logged at the end of a request."""
    ending = {**_COMMON, **_START, **_ROUTE, **_END, **_RESULT}
    if version == "1.38":
        ending["span"] = "%SPAN_ID%"
    if version == "1.36":
        del ending["ttfb_body_us"]
    return ending


def _filters(version: str, reporter: bool) -> list[dict[str, Any]]:
    filters: list[dict[str, Any]] = []
    if version == "1.38":
        # Envoy adds its trace context after the picker, which would begin a trace of its own.
        value = "00-%TRACE_ID%-%SPAN_ID%-01"
        header = {"key": "traceparent", "value": value}
        mutation = {"append": {"header": header, "append_action": "ADD_IF_ABSENT"}}
        kind = f"{_FILTERS}header_mutation.v3.HeaderMutation"
        filters.append(_filter("trace", kind, mutations={"request_mutations": [mutation]}))
    answers = {} if reporter else {"response_rules": {"rules": _json_rules(_RESPONSE)}}
    kind = f"{_FILTERS}json_to_metadata.v3.JsonToMetadata"
    filters.append(
        _filter("bodies", kind, request_rules={"rules": _json_rules(_REQUEST)}, **answers)
    )
    filters.append(_filter("picker", f"{_FILTERS}ext_proc.v3.ExternalProcessor", **_PICKER))
    if version == "1.38" and not reporter:
        filters.append(_filter("streams", f"{_FILTERS}sse_to_metadata.v3.SseToMetadata", **_SSE))
    elif version == "1.36" or (not reporter and version == "1.37"):
        code = {"default_source_code": {"inline_string": _LUA if reporter else _LUA_USAGE}}
        filters.append(_filter("streams", f"{_FILTERS}lua.v3.Lua", **code))
    return filters


_USAGE = {
    "prompt_tokens": "usage.prompt_tokens",
    "completion_tokens": "usage.completion_tokens",
    "cached_tokens": "usage.prompt_tokens_details.cached_tokens",
}
_REQUEST = {"req_model": "model", "stream": "stream"}
_RESPONSE = {**_USAGE, "model": "model", "id": "id"}
_KINDS = {"req_model": "STRING", "model": "STRING", "id": "STRING", "stream": "PROTOBUF_VALUE"}


def _rule(key: str, path: str) -> dict[str, Any]:
    return {
        "selectors": [{"key": part} for part in path.split(".")],
        "on_present": {
            "metadata_namespace": "llm",
            "key": key,
            "type": _KINDS.get(key, "NUMBER"),
        },
    }


def _json_rules(keys: dict[str, str]) -> list[dict[str, Any]]:
    return [_rule(key, path) for key, path in keys.items()]


def _typed(kind: str, **fields: Any) -> dict[str, Any]:
    return {"@type": f"{_TYPE}{kind}", **fields}


_SSE = {
    "response_rules": {
        "max_event_size": 1 << 20,
        "content_parser": {
            "name": "envoy.content_parsers.json",
            "typed_config": _typed(
                "extensions.content_parsers.json.v3.JsonContentParser",
                rules=[
                    {
                        "rule": _rule(key, path),
                        "stop_processing_after_matches": int(key in ("model", "id")),
                    }
                    for key, path in _RESPONSE.items()
                ],
            ),
        },
    }
}
_PICKER = {
    "grpc_service": {"envoy_grpc": {"cluster_name": "picker"}, "timeout": "10s"},
    "message_timeout": "600s",
    "processing_mode": {
        **dict.fromkeys(
            (
                "request_header_mode",
                "response_header_mode",
                "request_trailer_mode",
                "response_trailer_mode",
            ),
            "SEND",
        ),
        **dict.fromkeys(("request_body_mode", "response_body_mode"), "FULL_DUPLEX_STREAMED"),
    },
    "metadata_options": {"receiving_namespaces": {"untyped": ["envoy.lb", "llm"]}},
}


def _filter(name: str, kind: str, **fields: Any) -> dict[str, Any]:
    return {"name": name, "typed_config": _typed(kind, **fields)}


def _log(keys: dict[str, str], *types: str) -> dict[str, Any]:
    return {
        "name": f"otel-lifecycle-{types[0]}",
        "filter": {"log_type_filter": {"types": list(types)}},
        "typed_config": _typed(
            "extensions.access_loggers.file.v3.FileAccessLog",
            path=LOG,
            log_format={"json_format": keys},
        ),
    }


def _address(host: str, port: int) -> dict[str, Any]:
    return {"socket_address": {"address": host, "port_value": port}}


def _grpc_cluster(name: str, host: str, port: int) -> dict[str, Any]:
    endpoint = {"endpoint": {"address": _address(host, port)}}
    return {
        "name": name,
        "type": "STRICT_DNS",
        "connect_timeout": "1s",
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": _typed(
                "extensions.upstreams.http.v3.HttpProtocolOptions",
                explicit_http_config={"http2_protocol_options": {}},
            )
        },
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [endpoint]}]},
    }


if __name__ == "__main__":
    main()
