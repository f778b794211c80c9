"""Shows which packages configure the SDK under `opentelemetry-instrument`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from otel_lifecycle.cli.doctor.diagnosis import Diagnosis
from otel_lifecycle.cli.doctor.interpreter import EntryPoint, Facts

# The defaults that `opentelemetry-distro` sets.
_DISTRO_DEFAULTS = {
    "OTEL_TRACES_EXPORTER": "otlp",
    "OTEL_METRICS_EXPORTER": "otlp",
    "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc",
}


def examine_sdk(
    diagnosis: Diagnosis, facts: Facts, environment: Mapping[str, str]
) -> Mapping[str, str] | None:
    """Report which distro and which configurator are installed.

    Returns:
        The environment as the SDK will see it; None if nothing configures the SDK.
    """
    diagnosis.begin("SDK")
    chosen: dict[str, EntryPoint | None] = {}
    for kind in ("distro", "configurator"):
        variable = f"OTEL_PYTHON_{kind.upper()}"
        points = facts.groups[f"opentelemetry_{kind}"]
        chosen[kind] = _choose(diagnosis, kind, variable, points, environment.get(variable))
    if chosen["configurator"] is None:
        diagnosis.warn(
            "nothing configures the SDK, so there are no spans and metrics: "
            f"{facts.executable} -m pip install opentelemetry-distro, or your vendor's distro"
        )
        return None
    if environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        diagnosis.fact("disabled", "OTEL_SDK_DISABLED=true")
        diagnosis.warn("OTEL_SDK_DISABLED=true: there are no spans and metrics")
        return None
    distro = chosen["distro"]
    if distro is not None and distro.value.startswith("opentelemetry.distro:"):
        return {**_DISTRO_DEFAULTS, **environment}
    return environment


def _choose(
    diagnosis: Diagnosis,
    kind: str,
    variable: str,
    points: Sequence[EntryPoint],
    name: str | None,
) -> EntryPoint | None:
    """Return the entry point that is loaded: the first, or the one a variable names."""
    fitting = [point for point in points if name in (None, point.name)]
    if not fitting:
        diagnosis.fact(kind, "none" if name is None else f"none is called {name} ({variable})")
        return None
    taken, *others = fitting
    diagnosis.fact(kind, f"{taken.name} ({taken.value})")
    if others:
        names = ", ".join(point.name for point in others)
        diagnosis.fact(f"other {kind}", names)
        diagnosis.warn(
            f"there is more than one {kind}: {taken.name} is used, {names} will not be; "
            f"set {variable} to choose another"
        )
    return taken
