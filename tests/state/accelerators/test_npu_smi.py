"""Reading `npu-smi` on the host: processes of a stand-in that fails in every way."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import pytest

from otel_lifecycle.state.accelerators import DeviceReading
from otel_lifecycle.state.accelerators.npu_smi import NpuSmiError, read
from tests.processes import runs
from tests.waiting import PATIENCE_SECONDS, eventually

STAND_IN = str(Path(__file__).with_name("npu-smi"))
ALL = ("core", "memory", "memory_bandwidth")


def chip(
    device_id: str,
    core: float | None,
    memory: float | None,
    bandwidth: float | None,
    *,
    seen: Sequence[str] = ALL,
    invalid: Sequence[str] = (),
) -> DeviceReading:
    """A chip, without the time at which it was read."""
    return DeviceReading(
        "npu",
        device_id,
        core_utilization=core,
        memory_utilization=memory,
        memory_bandwidth_utilization=bandwidth,
        core_observed_at=0.0 if "core" in seen else None,
        memory_observed_at=0.0 if "memory" in seen else None,
        memory_bandwidth_observed_at=0.0 if "memory_bandwidth" in seen else None,
        invalid=frozenset(invalid),  # pyright: ignore[reportArgumentType]
    )


def timeless(reading: DeviceReading) -> DeviceReading:
    """The same reading, with 0 for the times of its groups."""
    fields = [f"{group}_observed_at" for group in ALL]
    seen = {field: 0.0 for field in fields if getattr(reading, field) is not None}
    return msgspec.structs.replace(reading, **seen)


@pytest.fixture
def mode(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Choose how the stand-in fails."""
    monkeypatch.delenv("PIDS", raising=False)
    return lambda value: monkeypatch.setenv("MODE", value)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("", [chip("0", 60.0, 70.0, 40.0), chip("4", 64.0, 74.0, 44.0)]),
        ("bytes", [chip("0", 50.0, 1.0, 2.0), chip("4", 54.0, 1.0, 2.0)]),
        (
            "no-hbm",
            [
                chip("0", 20.0, None, None, seen=["core"]),
                chip("4", 24.0, None, None, seen=["core"]),
            ],
        ),
        (
            "two-chips",
            [
                chip("0:0", 11.0, 21.0, 31.0),
                chip("0:1", 12.0, 22.0, 32.0),
                chip("4", 64.0, 74.0, 44.0),
            ],
        ),
        ("one-fails", [chip("0", None, None, None, seen=[]), chip("4", 64.0, 74.0, 44.0)]),
        (
            "bad-values",
            [
                chip("0", None, None, None, invalid=ALL),
                chip(
                    "4", None, None, None,
                    seen=["memory", "memory_bandwidth"], invalid=["memory", "memory_bandwidth"],
                ),
            ],
        ),
    ],
)  # fmt: skip
def test_read(mode: Callable[[str], None], name: str, expected: list[DeviceReading]) -> None:
    """Printed values are read, impossible values are invalid, missing values are unknown."""
    mode(name)

    readings = read(STAND_IN, timeout=PATIENCE_SECONDS)

    assert [timeless(reading) for reading in readings] == expected


def test_time(mode: Callable[[str], None]) -> None:
    """A value has the time at which its command ended."""
    mode("")
    before = time.time()
    first, second = read(STAND_IN, timeout=PATIENCE_SECONDS)

    assert before <= (first.core_observed_at or 0) < (second.core_observed_at or 0) <= time.time()


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("none", "`npu-smi info -l` lists no NPU: no line `NPU ID : number`"),
        ("chinese-list", "`npu-smi info -l` lists no NPU: no line `NPU ID : number`"),
        (
            "driver",
            "`npu-smi info -l` ended with 1: 'dcmi module initialize failed. ret is -8005'",
        ),
        ("huge", "`npu-smi info -l` prints more than 262144 bytes"),
        *(
            (
                name,
                "`npu-smi info -t usages -i 0` prints no usages such as `Aicore Usage Rate(%)`",
            )
            for name in ("chinese", "renamed", "table", "chip-first", "empty")
        ),
    ],
)
def test_of_no_use(mode: Callable[[str], None], name: str, reason: str) -> None:
    """If nothing can be read, the error has the reason in one line."""
    mode(name)

    with pytest.raises(NpuSmiError) as caught:
        read(STAND_IN, timeout=PATIENCE_SECONDS)

    assert str(caught.value) == reason.replace("npu-smi info", f"{STAND_IN} info")


@pytest.mark.parametrize("name", ["hang", "child", "closed"])
def test_hanging(
    mode: Callable[[str], None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    """A command that does not end in time is killed with all its children."""
    mode(name)
    pids = tmp_path / "pids"
    monkeypatch.setenv("PIDS", str(pids))

    for timeout in (0.3, 3.0, 30.0):  # a machine under load may need longer to start it
        with pytest.raises(NpuSmiError) as caught:
            read(STAND_IN, timeout=timeout)
        assert str(caught.value) == f"`{STAND_IN} info -l` did not end in time"
        if pids.exists() and pids.stat().st_size:
            break

    eventually(lambda: not runs(int(pids.read_text("ascii"))))


def test_slow_npu(mode: Callable[[str], None]) -> None:
    """The time limit covers all commands together."""
    mode("slow")
    before = time.monotonic()

    for timeout in (0.5, 5.0, 30.0):  # a machine under load may need longer for the list
        with pytest.raises(NpuSmiError) as caught:
            read(STAND_IN, timeout=timeout)
        if "info -l" not in str(caught.value):
            break

    assert str(caught.value).endswith("usages -i 0` did not end in time")
    assert time.monotonic() - before < 300.0  # and not the ten minutes it would take


def test_absent(tmp_path: Path) -> None:
    """A missing executable is an error."""
    path = tmp_path / "npu-smi"

    with pytest.raises(NpuSmiError, match=r"`.*npu-smi info -l` cannot be run: .*No such file"):
        read(str(path))


def test_not_executable(tmp_path: Path) -> None:
    """A file that cannot be executed, or is not a program, is an error."""
    path = tmp_path / "npu-smi"
    path.write_text("no program", "ascii")
    with pytest.raises(NpuSmiError, match=r"cannot be run: .*Permission denied"):
        read(str(path))

    path.chmod(0o700)
    with pytest.raises(NpuSmiError, match=r"cannot be run: .*Exec format error"):
        read(str(path))
