"""Examines a configuration of Envoy for `observe`."""

from __future__ import annotations

from pathlib import Path

from otel_lifecycle.cli.doctor.diagnosis import Diagnosis
from otel_lifecycle.cli.errors import CommandError
from otel_lifecycle.observation.envoy.config import examine, read_config


def examine_envoy(diagnosis: Diagnosis, path: Path) -> None:
    """Say what `observe` would learn from the access log of a configuration.

    Raises:
        CommandError: The file cannot be read.
    """
    try:
        found = examine(read_config(path))
    except OSError as error:
        raise CommandError(f"{path}: {error.strerror or error}") from error
    except ValueError as error:
        raise CommandError(str(error)) from error
    if not found:
        diagnosis.problem(f"{path} has no HttpConnectionManager: it serves no HTTP")
    for name, findings in found.items():
        diagnosis.begin(f"Access log of {name}")
        for finding in findings:
            diagnosis.fact(finding.what, finding.text if finding.told else "not told")
            if finding.needed and not finding.told:
                diagnosis.problem(f"{name}: {finding.text}")
            elif not finding.told:
                diagnosis.warn(f"{name}: {finding.what}: {finding.text}")
