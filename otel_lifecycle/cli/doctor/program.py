"""Checks whether the program that a command starts can be instrumented."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from otel_lifecycle.cli.doctor.command import Program
from otel_lifecycle.cli.doctor.diagnosis import Diagnosis
from otel_lifecycle.cli.doctor.interpreter import Facts

INSTRUMENT = "opentelemetry-instrument"

_MINI_LB = "--mini-lb"
_OWN_TRACING = "--otel-endpoint"


def examine_program(diagnosis: Diagnosis, command: Sequence[str], program: Program) -> bool:
    """Report what the command is; return whether there is a Python environment to examine."""
    diagnosis.begin("command")
    if not program.path:
        diagnosis.fact(command[0], "not found")
        diagnosis.problem(f"there is no program {command[0]} on the path")
        return False
    if program.interpreter:
        diagnosis.fact(program.path, f"Python program, run by {program.interpreter}")
        if program.isolating_flag:
            diagnosis.problem(
                f"{program.path} runs Python with {program.isolating_flag}, which disables "
                f"{INSTRUMENT}: remove the flag"
            )
        return True
    if program.script_of:
        diagnosis.fact(program.path, f"a script of {program.script_of}")
        diagnosis.warn(
            f"{program.path} is not a Python program, so the doctor examines its own environment; "
            "name the Python program that it starts"
        )
        return True
    diagnosis.fact(program.path, "a native program")
    diagnosis.problem(
        f"{program.path} is a native program, which cannot be instrumented; if it only starts a "
        "Python program, name that program"
    )
    return False


def examine_runs(
    diagnosis: Diagnosis, command: Sequence[str], program: Program, facts: Facts
) -> bool:
    """Report which code a Python program runs, and how to start it.

    Returns:
        Whether it can be instrumented.
    """
    if program.file:
        there = Path(program.file).exists()
        diagnosis.fact("runs", program.file if there else f"{program.file}, which does not exist")
        if not there:
            diagnosis.problem(f"there is no file {program.file}")
    elif facts.module:
        diagnosis.fact("runs", f"the module {facts.module}")
        if not _examine_module(diagnosis, command, facts):
            return False
    # Its own options would be confused with those of the command, and arguments may be secret.
    name = INSTRUMENT if shutil.which(INSTRUMENT) else _beside(facts.executable)
    diagnosis.fact("to be started by", f"{name} -- {command[0]}{' ...' if command[1:] else ''}")
    return True


def _examine_module(diagnosis: Diagnosis, command: Sequence[str], facts: Facts) -> bool:
    if not facts.module_found:
        diagnosis.problem(f"there is no module {facts.module} for {facts.executable}")
        return False
    if facts.native and _MINI_LB not in command:
        diagnosis.problem(
            f"{facts.module} starts a native router ({facts.native}), which cannot be "
            "instrumented; use its own tracing"
        )
        return False
    if facts.module.startswith("vllm_router.") and _has_option(command, _OWN_TRACING):
        diagnosis.warn(
            f"with {_OWN_TRACING} the router creates a second server span for each request; remove "
            "the option"
        )
    return True


def _has_option(command: Sequence[str], option: str) -> bool:
    return any(word == option or word.startswith(f"{option}=") for word in command)


def _beside(executable: str) -> str:
    return os.path.join(os.path.dirname(executable), INSTRUMENT)
