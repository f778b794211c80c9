"""`otel-lifecycle doctor`: shows what would be instrumented, and where telemetry would go."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from otel_lifecycle.cli.doctor.command import Program, resolve
from otel_lifecycle.cli.doctor.destinations import examine_destinations
from otel_lifecycle.cli.doctor.diagnosis import Diagnosis
from otel_lifecycle.cli.doctor.environment import examine_environment
from otel_lifecycle.cli.doctor.envoy import examine_envoy
from otel_lifecycle.cli.doctor.instrumentations import examine_instrumentations
from otel_lifecycle.cli.doctor.interpreter import Interpreter, ProbeError
from otel_lifecycle.cli.doctor.program import INSTRUMENT, examine_program, examine_runs
from otel_lifecycle.cli.doctor.script import examine_script
from otel_lifecycle.cli.doctor.sdk import examine_sdk
from otel_lifecycle.cli.doctor.settings import examine_record_file, examine_settings
from otel_lifecycle.cli.errors import FAILED, CommandError
from otel_lifecycle.cli.printing import open_printer


def run(command: Sequence[str], envoy: Path | None = None) -> int:
    """Examine this environment, or a command's, and print the findings.

    Args:
        command: The command that starts the router; empty: this environment.
        envoy: A configuration of Envoy to examine instead.

    Returns:
        The exit code: 0 if it would work, 1 if not.
    """
    if envoy is not None:
        if command:
            raise CommandError("name either a command, or with --envoy a configuration")
        diagnosis = Diagnosis()
        examine_envoy(diagnosis, envoy)
        diagnosis.print(open_printer())
        return FAILED if diagnosis.problems else 0
    if command and os.path.basename(command[0]) == INSTRUMENT:
        raise CommandError(f"omit {INSTRUMENT}, and name the command that it starts")
    diagnosis = Diagnosis()
    _examine(diagnosis, command)
    diagnosis.print(open_printer())
    return FAILED if diagnosis.problems else 0


def _examine(diagnosis: Diagnosis, command: Sequence[str]) -> None:
    environment = os.environ
    program = resolve(command, environment.get("PATH")) if command else Program()
    if command and not examine_program(diagnosis, command, program):
        return
    interpreter = Interpreter(program.interpreter or sys.executable, environment)
    try:
        facts = interpreter.facts(program.console_script, program.module)
    except ProbeError as error:
        diagnosis.problem(f"cannot find out what is installed for {interpreter.path}: {error}")
        return
    if command and not examine_runs(diagnosis, command, program, facts):
        return
    if not examine_environment(diagnosis, facts):
        return
    examine_instrumentations(diagnosis, interpreter, facts, environment)
    sdk_environment = examine_sdk(diagnosis, facts, environment)
    exported = sdk_environment is not None and examine_destinations(
        diagnosis, facts, sdk_environment
    )
    config = examine_settings(diagnosis, environment)
    if config is None:
        return
    if command:
        examine_script(diagnosis, command, program, facts, config.paths)
    examine_record_file(diagnosis, config.persistence)
    if not exported and not config.persistence.enabled:
        diagnosis.problem(
            "spans and metrics are not exported, and there is no record file: set "
            "OTEL_LIFECYCLE_PERSISTENCE_OUTPUT_PATH, or configure the SDK to export"
        )
