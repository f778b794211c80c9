"""Shows the versions of Python and of the relevant packages."""

from __future__ import annotations

import re

from otel_lifecycle.cli.doctor.diagnosis import Diagnosis
from otel_lifecycle.cli.doctor.interpreter import Facts

_INSTRUMENTATION = "opentelemetry-instrumentation"
# Older versions do not instrument the child processes of an instrumented process.
_REACHES_CHILDREN = (0, 63)


def examine_environment(diagnosis: Diagnosis, facts: Facts) -> bool:
    """Report versions; return whether this package is installed."""
    diagnosis.begin("environment")
    diagnosis.fact("python", f"{facts.python}  ({facts.executable})")
    for name, version in facts.versions.items():
        diagnosis.fact(name, version)
    if "otel-lifecycle" not in facts.versions:
        diagnosis.problem(
            "otel-lifecycle is not installed in this environment: "
            f"{facts.executable} -m pip install otel-lifecycle opentelemetry-distro"
        )
        return False
    version = facts.versions.get(_INSTRUMENTATION, "")
    numbers = re.match(r"(\d+)\.(\d+)", version)
    if numbers is not None and (int(numbers[1]), int(numbers[2])) < _REACHES_CHILDREN:
        diagnosis.warn(
            f"{_INSTRUMENTATION} {version} does not instrument the worker processes of a router: "
            f"{facts.executable} -m pip install --upgrade '{_INSTRUMENTATION}>=0.63b0'"
        )
    return True
