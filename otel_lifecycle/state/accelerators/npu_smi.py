"""Ascend's `npu-smi`, run on the host itself, for machines without an exporter.

`npu-smi info -l` lists the NPUs. `npu-smi info -t usages -i ID` prints the usage of an NPU's chips
as lines `Key : value`; a line `Chip ID` ends the block of a chip. While a profiler runs, npu-smi
reports 0 for the AI cores.
"""

from __future__ import annotations

import os
import re
import selectors
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress

from otel_lifecycle.state.accelerators.reading import DeviceReading
from otel_lifecycle.state.accelerators.series import Device, Measured, Measurement, reading

MAX_OUTPUT = 256 * 1024  # bytes of one command; 16 chips print about 8 KiB
MAX_NPUS = 64

_CORE = "Aicore Usage Rate(%)"
_MEMORY = "HBM Usage Rate(%)"
_BANDWIDTH = "HBM Bandwidth Usage Rate(%)"
_USAGES = (_CORE, _MEMORY, _BANDWIDTH)
_NPU = "NPU ID"
_CHIP = "Chip ID"

_NUMBER = re.compile(r"-?\d+(?:\.\d+)?", re.ASCII)


class NpuSmiError(Exception):
    """`npu-smi` is missing, fails or prints an unknown format; the text gives the reason."""


def read(executable: str = "npu-smi", *, timeout: float = 10.0) -> Sequence[DeviceReading]:
    """Read each chip of this machine. Blocks: call it on a worker thread.

    If only some NPUs can be read, the others are listed with unknown values.

    Args:
        executable: Name or path of `npu-smi`.
        timeout: Seconds for all commands together; a command that still runs then is killed.

    Raises:
        NpuSmiError: Nothing could be read.
    """
    deadline = time.monotonic() + timeout
    npus = _npus(_run([executable, "info", "-l"], deadline))
    if not npus:
        raise NpuSmiError(f"`{executable} info -l` lists no NPU: no line `{_NPU} : number`")
    readings: list[DeviceReading] = []
    errors: list[str] = []
    for npu in npus[:MAX_NPUS]:
        try:
            command = [executable, "info", "-t", "usages", "-i", npu]
            output = _run(command, deadline)
            chips = list(_chips(npu, output, time.time()))
            if not chips:
                raise NpuSmiError(f"`{' '.join(command)}` prints no usages such as `{_CORE}`")
            readings += chips
        except NpuSmiError as error:
            errors.append(str(error))
            readings.append(DeviceReading("npu", npu))
    if len(errors) == len(readings):
        raise NpuSmiError(errors[0])
    return readings


def _lines(output: str) -> Iterator[tuple[str, str]]:
    for line in output.splitlines():
        key, _, value = line.partition(":")
        yield key.strip(), value.strip()


def _npus(output: str) -> list[str]:
    return [value for key, value in _lines(output) if key == _NPU and value.isdecimal()]


def _chips(npu: str, output: str, now: float) -> Iterator[DeviceReading]:
    """Yield the chips of one NPU that have any value."""
    blocks: list[tuple[str, dict[str, str]]] = []
    usages: dict[str, str] = {}
    for key, value in _lines(output):
        if key in _USAGES:
            usages.setdefault(key, value)
        elif key == _CHIP and usages:  # a card's controller has no usages
            blocks.append((value, usages))
            usages = {}
    if usages:  # without a chip: in another layout they may all belong to the previous chip
        return
    for chip, usages in blocks:
        core, memory, bandwidth = (_measured(usages.get(key), now) for key in _USAGES)
        device = Device(npu if len(blocks) == 1 else f"{npu}:{chip}")
        yield reading("npu", device, core=core, memory=memory, memory_bandwidth=bandwidth)


def _measured(value: str | None, now: float) -> Measured:
    if value is None or value in ("", "NA", "N/A", "-"):
        return None
    number = float(value) if _NUMBER.fullmatch(value) else -1.0
    return Measurement(number if 0.0 <= number <= 100.0 else None, now)


def _run(command: Sequence[str], deadline: float) -> str:
    """Run a command and return its output.

    Raises:
        NpuSmiError: It cannot be started, fails, takes too long or prints too much.
    """
    shown = f"`{' '.join(command)}`"
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, "LC_ALL": "C"},
            start_new_session=True,
        )
    except (OSError, ValueError) as error:
        raise NpuSmiError(f"{shown} cannot be run: {error}") from None
    try:
        output = _output(process, shown, deadline)
        code = process.wait(max(0.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        raise NpuSmiError(f"{shown} did not end in time") from None
    finally:
        _end(process)
    text = output.decode("utf-8", "replace")
    if code != 0:
        last = text.strip().rpartition("\n")[2].strip()[:200]
        raise NpuSmiError(f"{shown} ended with {code}: {last!r}")
    return text


def _output(process: subprocess.Popen[bytes], shown: str, deadline: float) -> bytes:
    assert process.stdout is not None
    pipe = process.stdout.fileno()
    os.set_blocking(pipe, False)
    output = bytearray()
    with selectors.DefaultSelector() as selector:
        selector.register(pipe, selectors.EVENT_READ)
        while True:
            left = deadline - time.monotonic()
            if left <= 0.0 or not selector.select(left):
                raise NpuSmiError(f"{shown} did not end in time")
            part = os.read(pipe, 65536)
            if not part:
                return bytes(output)
            output += part
            if len(output) > MAX_OUTPUT:
                raise NpuSmiError(f"{shown} prints more than {MAX_OUTPUT} bytes")


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill the command and its children; do not wait for one that hangs in the driver."""
    assert process.stdout is not None
    process.stdout.close()
    if process.returncode is None:  # else its group id may have been reused
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        with suppress(subprocess.TimeoutExpired):
            process.wait(1.0)
