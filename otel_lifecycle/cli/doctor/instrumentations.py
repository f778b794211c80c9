"""Shows which instrumentations load, and which of their hooks exist."""

from __future__ import annotations

from collections.abc import Mapping

from otel_lifecycle.cli.doctor.diagnosis import Diagnosis
from otel_lifecycle.cli.doctor.interpreter import EntryPoint, Facts, Interpreter, Wanted

_DISABLED = "OTEL_PYTHON_DISABLED_INSTRUMENTATIONS"
_NOISY = ("fastapi", "starlette")


def examine_instrumentations(
    diagnosis: Diagnosis,
    interpreter: Interpreter,
    facts: Facts,
    environment: Mapping[str, str],
) -> None:
    """Report what each of our instrumentations finds, and which others are installed."""
    diagnosis.begin("instrumentations")
    names = {name.strip() for name in environment.get(_DISABLED, "").split(",")}
    points = facts.groups["opentelemetry_instrumentor"]
    states = {point.name: _state(point, facts, names) for point in points}
    following: list[str] = []
    enriching: list[str] = []
    for point in (point for point in points if point.name in facts.wanted):
        wanted = facts.wanted[point.name]
        libraries = {module.partition(".")[0] for module in wanted.modules}
        state = states[point.name]
        if not state and not libraries & facts.libraries.keys():
            state = f"loads, but there is no {' and no '.join(sorted(libraries))}"
        diagnosis.fact(point.name, state or "loads")
        if state:
            continue
        found = _examine_hooks(diagnosis, interpreter, facts, wanted)
        if wanted.enriches:
            enriching += [point.name] if found else []
        elif found & {*wanted.serving}:
            following.append(point.name)
    if enriching and not following:
        diagnosis.problem(
            f"{', '.join(enriching)} can only add to the spans of asgi_router, which is disabled "
            "or finds nothing to hook"
        )
    elif not following:
        diagnosis.problem(
            "no instrumentation finds anything to hook: no known router library is installed, or "
            "the instrumentations are disabled"
        )
    _examine_others(
        diagnosis,
        facts,
        [name for name in states if name not in facts.wanted and not states[name]],
    )


def _state(point: EntryPoint, facts: Facts, disabled: set[str]) -> str:
    """Return why an instrumentation is not loaded; empty if it is."""
    if "*" in disabled or point.name in disabled:
        return f"disabled ({_DISABLED})"
    if point.conflict:
        return f"in conflict: {point.conflict}"
    wanted = facts.wanted.get(point.name)
    return f"cannot be loaded: {wanted.error}" if wanted is not None and wanted.error else ""


def _examine_hooks(
    diagnosis: Diagnosis, interpreter: Interpreter, facts: Facts, wanted: Wanted
) -> set[str]:
    """Report which hooks exist; return the modules with any."""
    hooked: set[str] = set()
    packages = {module: module.partition(".")[0] for module in wanted.modules}
    probed = interpreter.hooks(
        {
            module: names
            for module, names in wanted.modules.items()
            if packages[module] in facts.libraries
        }
    )
    for module, names in wanted.modules.items():
        hooks = probed.get(module)
        if hooks is None:
            diagnosis.fact(f"  {module}", "not installed")
            continue
        where = facts.libraries[packages[module]] or packages[module]
        if hooks.error:
            diagnosis.fact(f"  {module}", f"{where}: cannot be imported: {hooks.error}")
            diagnosis.warn(f"{module} cannot be imported, so its hooks are unknown: {hooks.error}")
            continue
        found = [name for name in names if name not in hooks.missing]
        if found:
            hooked.add(module)
        if hooks.module_missing:
            text = "there is no such module"
        else:
            text = ", ".join(found + [f"{name} is missing" for name in hooks.missing])
        diagnosis.fact(f"  {module}", f"{where}: {text}")
        if hooks.missing:
            diagnosis.warn(
                f"{where} has no {_listed(module, hooks.missing, hooks.module_missing)}: "
                "the values it provides stay unknown"
            )
    return hooked


def _listed(module: str, missing: list[str], whole: bool) -> str:
    return module if whole else ", ".join(f"{module}.{name}" for name in missing)


def _examine_others(diagnosis: Diagnosis, facts: Facts, others: list[str]) -> None:
    """Name the other instrumentations, and those that create unneeded spans."""
    if others:
        diagnosis.fact("of others", ", ".join(others))
    noisy = [name for name in others if name in _NOISY]
    if noisy:
        diagnosis.warn(
            f"{' and '.join(noisy)}: one `http send` span for each chunk of a stream, which no "
            f"variable turns off; {_DISABLED}={','.join(noisy)} disables the instrumentation"
        )
    if facts.fastapi_traces:
        diagnosis.fact(
            "FastAPI's own spans",
            "a server span, and one each for dependencies, endpoint and serialization; "
            + (
                "left to the instrumentation above"
                if "fastapi" in noisy
                else "ours is below the first"
            ),
        )
