"""Runs the probes in the environment they examine."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import msgspec

from otel_lifecycle.analysis.formatting import printable
from otel_lifecycle.cli.doctor import hook_probe, probe

_Answer = TypeVar("_Answer")

PROBE_SECONDS = 60.0
IMPORT_SECONDS = 30.0

_AUTO_INSTRUMENTATION = "opentelemetry/instrumentation/auto_instrumentation"


class ProbeError(Exception):
    """An environment cannot be examined; the text gives the reason."""


class EntryPoint(msgspec.Struct, frozen=True):
    """An entry point of the environment."""

    name: str
    value: str
    conflict: str


class Wanted(msgspec.Struct, frozen=True):
    """The hooks of one of our instrumentations, or why it cannot be loaded.

    The modules of `serving` receive requests.
    """

    modules: dict[str, list[str]]
    serving: list[str] = []
    enriches: bool = False
    error: str = ""


class Facts(msgspec.Struct, frozen=True):
    """The contents of an environment, as found by `probe`."""

    python: str
    executable: str
    versions: dict[str, str]
    groups: dict[str, list[EntryPoint]]
    wanted: dict[str, Wanted]
    libraries: dict[str, str]
    module: str
    module_found: bool
    module_file: str
    native: str
    fastapi_traces: bool


class Hooks(msgspec.Struct, frozen=True):
    """The hooks that a module lacks, or why that is unknown."""

    missing: list[str] = []
    module_missing: bool = False
    error: str = ""


class Interpreter:
    """The Python of one environment, as `opentelemetry-instrument` would use it.

    Args:
        path: The executable.
        environment: The environment variables.
    """

    def __init__(self, path: str, environment: Mapping[str, str]) -> None:
        self.path = path
        self._environment = _without_auto_instrumentation(environment)

    def facts(self, command: str, module: str) -> Facts:
        """Return what is installed in the environment.

        Args:
            command: Name of the console script that is run; empty if none is.
            module: The module that is run; empty if it is not known.

        Raises:
            ProbeError: The environment cannot be examined.
        """
        return self._run_probe(probe.__file__, [command, module], PROBE_SECONDS, Facts)

    def hooks(
        self, modules: Mapping[str, Sequence[str]], seconds: float = IMPORT_SECONDS
    ) -> dict[str, Hooks]:
        """Import modules in a separate process and look for names in them.

        If one of them ends the process, or takes too long, each gets a process of its own.
        """
        asked = [msgspec.json.encode(modules).decode()]
        try:
            return self._run_probe(hook_probe.__file__, asked, seconds, dict[str, Hooks])
        except ProbeError as error:
            if len(modules) == 1:
                return dict.fromkeys(modules, Hooks(error=str(error)))
        return {
            module: self.hooks({module: names}, seconds)[module]
            for module, names in modules.items()
        }

    def _run_probe(
        self, source: str, arguments: Sequence[str], seconds: float, answer: type[_Answer]
    ) -> _Answer:
        # As text: a file's folder would be the first place to import from.
        command = [self.path, "-c", Path(source).read_text("utf-8"), *arguments]
        try:
            process = subprocess.Popen(
                command,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
            )
        except OSError as error:
            raise ProbeError(f"{self.path}: {error.strerror}") from error
        try:
            output, errors = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            raise ProbeError(f"no answer within {seconds:g} seconds") from None
        finally:
            _kill(process)
        try:
            return msgspec.json.decode(output, type=answer)
        except msgspec.DecodeError:
            raise ProbeError(_last_line(process.returncode, errors)) from None


def _kill(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):  # no process of its session is left
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def _last_line(code: int, errors: bytes) -> str:
    lines = errors.decode("utf-8", "replace").strip().splitlines()
    return printable(f"exited with {code}: {lines[-1].strip() if lines else 'no output'}")


def _without_auto_instrumentation(environment: Mapping[str, str]) -> dict[str, str]:
    """Remove auto-instrumentation, so that the probes are not instrumented."""
    kept = [
        path
        for path in environment.get("PYTHONPATH", "").split(os.pathsep)
        if path and not path.rstrip("/").endswith(_AUTO_INSTRUMENTATION)
    ]
    result = {**environment, "PYTHONPATH": os.pathsep.join(kept)}
    if not kept:
        del result["PYTHONPATH"]
    return result
