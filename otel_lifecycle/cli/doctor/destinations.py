"""Shows where spans and metrics go, and checks whether anything listens there."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import SplitResult, urlsplit
from urllib.request import getproxies, proxy_bypass

from otel_lifecycle.cli.doctor.diagnosis import Diagnosis
from otel_lifecycle.cli.doctor.interpreter import Facts
from otel_lifecycle.runtime.text import without_secrets

CONNECT_SECONDS = 1.0

# Both are the SDK's exporter of the protocol in force.
_OTLP = {"TRACES": ("otlp", "otlp_lifecycle"), "METRICS": ("otlp",)}
_BY_PROTOCOL = {"grpc": "otlp_proto_grpc", "http/protobuf": "otlp_proto_http"}
_DEFAULT_SAMPLER = "parentbased_always_on"
_SIGNALS = {"traces": "spans", "metrics": "metrics"}


def examine_destinations(
    diagnosis: Diagnosis, facts: Facts, environment: Mapping[str, str]
) -> bool:
    """Report where each signal goes and with which sampler, and try to connect.

    Returns:
        Whether anything is exported.
    """
    diagnosis.begin("destinations")
    if file := environment.get("OTEL_CONFIG_FILE"):
        diagnosis.fact("declarative configuration", f"{file} decides (OTEL_CONFIG_FILE)")
        return True
    reached: dict[_Address, str] = {}
    exported = False
    for signal, label in _SIGNALS.items():
        variable = f"OTEL_{signal.upper()}_EXPORTER"
        names = environment.get(variable, "").strip()
        if names.lower() in ("", "none"):
            diagnosis.fact(label, f"not exported ({variable})")
            continue
        exported = True
        known = {point.name for point in facts.groups[f"opentelemetry_{signal}_exporter"]}
        variables = _Variables(environment, signal.upper())
        for name in names.split(","):
            exporter = _exporter(diagnosis, name.strip(), variables)
            if exporter is None:
                diagnosis.fact(label, f"{name}, with an unknown protocol")
            elif exporter not in known:
                diagnosis.fact(label, f"{exporter}, which is not installed")
                diagnosis.problem(
                    f"the exporter {exporter} of {label} is not installed, so the SDK cannot start "
                    "and nothing is instrumented: install it"
                )
            elif exporter in _BY_PROTOCOL.values():
                _examine_otlp(diagnosis, label, exporter, variables, reached)
            else:
                diagnosis.fact(label, exporter)
    sampler = environment.get("OTEL_TRACES_SAMPLER") or f"{_DEFAULT_SAMPLER} (default)"
    argument = environment.get("OTEL_TRACES_SAMPLER_ARG")
    diagnosis.fact("sampler", f"{sampler}, {argument}" if argument else sampler)
    diagnosis.fact("service name", _service_name(environment))
    return exported


class _Address(NamedTuple):
    host: str
    port: int


class _Variables(NamedTuple):
    """The `OTEL_EXPORTER_OTLP_*` variables of one signal."""

    environment: Mapping[str, str]
    signal: str

    def own(self, name: str) -> str:
        """Return the value set for this signal only."""
        return self.environment.get(f"OTEL_EXPORTER_OTLP_{self.signal}_{name}", "")

    def common(self, name: str) -> str:
        """Return the value set for all signals."""
        return self.environment.get(f"OTEL_EXPORTER_OTLP_{name}", "")

    def either(self, name: str) -> str:
        """Return the value in force."""
        return (self.own(name) or self.common(name)).strip()


def _exporter(diagnosis: Diagnosis, name: str, variables: _Variables) -> str | None:
    """Return the entry point of an exporter's name."""
    if name not in _OTLP[variables.signal]:
        return name
    protocol = variables.either("PROTOCOL") or "grpc"
    if protocol not in _BY_PROTOCOL:
        diagnosis.problem(
            f"the OTLP protocol {protocol!r} is not one of {', '.join(_BY_PROTOCOL)}, so the SDK "
            "cannot start and nothing is instrumented"
        )
    return _BY_PROTOCOL.get(protocol)


def _examine_otlp(
    diagnosis: Diagnosis,
    label: str,
    exporter: str,
    variables: _Variables,
    reached: dict[_Address, str],
) -> None:
    http = exporter == _BY_PROTOCOL["http/protobuf"]
    endpoint = _endpoint(variables, http)
    shown = without_secrets(endpoint)
    try:
        parts = urlsplit(endpoint if "://" in endpoint else f"//{endpoint}")
        secure = parts.scheme == "https" or (not http and _is_secure(parts.scheme, variables))
        address = _address(parts, secure)
    except ValueError:  # its text may contain a part of a password
        diagnosis.fact(label, f"{exporter} to {shown}")
        diagnosis.problem(f"the OTLP endpoint {shown} is not a valid URL")
        return
    if http and parts.scheme not in ("http", "https"):
        diagnosis.fact(label, f"{exporter} to {shown}")
        diagnosis.problem(f"the OTLP endpoint {shown} must start with http:// or https://")
        return
    state = "not tried"
    if address is not None:
        if address not in reached:
            reached[address] = _try(diagnosis, label, parts.scheme, address)
        state = reached[address]
    diagnosis.fact(label, f"{exporter} to {shown}{', with TLS' if secure else ''}: {state}")
    if headers := variables.either("HEADERS"):
        diagnosis.fact(f"headers of {label}", _masked(headers))


def _endpoint(variables: _Variables, http: bool) -> str:
    if own := variables.own("ENDPOINT"):
        return own
    base = variables.common("ENDPOINT") or f"http://localhost:{4318 if http else 4317}"
    return f"{base.removesuffix('/')}/v1/{variables.signal.lower()}" if http else base


def _is_secure(scheme: str, variables: _Variables) -> bool:
    """Return whether gRPC uses TLS; without a scheme it does."""
    insecure = variables.either("INSECURE")
    return insecure.lower() != "true" if insecure else scheme != "http"


def _address(parts: SplitResult, secure: bool) -> _Address | None:
    if not parts.hostname:  # a Unix socket, or a resolver of gRPC's
        return None
    return _Address(parts.hostname, parts.port or (443 if secure else 80))


def _try(diagnosis: Diagnosis, label: str, scheme: str, address: _Address) -> str:
    if (scheme or "https") in getproxies() and not proxy_bypass(address.host):
        return "not tried, because of a proxy"
    try:
        socket.create_connection(address, CONNECT_SECONDS).close()
    except OSError as error:
        reason = error.strerror or f"no answer within {CONNECT_SECONDS:g} s"
        diagnosis.problem(
            f"{address.host}:{address.port} accepts no {label} ({reason}): start a collector "
            "there, set OTEL_EXPORTER_OTLP_ENDPOINT, or export nothing (OTEL_TRACES_EXPORTER=none, "
            "OTEL_METRICS_EXPORTER=none)"
        )
        return f"nothing listens there ({reason})"
    return "something listens there"


def _masked(headers: str) -> str:
    """Return the names of headers; text not of the form `name=value` is hidden completely."""
    pairs = (pair.partition("=") for pair in headers.split(","))
    return ", ".join(f"{name.strip()}=***" if equals else "***" for name, equals, _ in pairs)


def _service_name(environment: Mapping[str, str]) -> str:
    if name := environment.get("OTEL_SERVICE_NAME"):
        return f"{name} (OTEL_SERVICE_NAME)"
    for pair in environment.get("OTEL_RESOURCE_ATTRIBUTES", "").split(","):
        key, _, value = pair.partition("=")
        if key.strip() == "service.name":
            return f"{value.strip()} (OTEL_RESOURCE_ATTRIBUTES)"
    return "unknown_service (set OTEL_SERVICE_NAME)"
