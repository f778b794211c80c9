"""The response of each exporter is read into device readings, field by field."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import pytest

from otel_lifecycle.state.accelerators import DeviceReading, amd, dcgm, npu_exporter

FIXTURES = Path(__file__).parent / "fixtures"
SCRAPED_AT = 1755859201.0
# Since v26.1.0 npu-exporter reads utilization every 1 s, and HBM every 60 s.
UTILIZATION_AT = 1755859200.123
HBM_AT = 1755859159.123


def body(name: str) -> bytes:
    """A stored response of an exporter."""
    return (FIXTURES / f"{name}.prom").read_bytes()


def npu(
    chip: int,
    core: float | None,
    memory: float | None,
    bandwidth: float | None,
    pod: str = "",
    *,
    core_at: float | None = UTILIZATION_AT,
    hbm_at: float | None = HBM_AT,
    invalid: Sequence[str] = (),
) -> DeviceReading:
    """A chip reported by npu-exporter."""
    return DeviceReading(
        "npu",
        str(chip),
        namespace="llm" if pod else "",
        pod_name=pod,
        core_utilization=core,
        memory_utilization=memory,
        memory_bandwidth_utilization=bandwidth,
        core_observed_at=core_at,
        memory_observed_at=hbm_at,
        memory_bandwidth_observed_at=hbm_at,
        invalid=frozenset(invalid),  # pyright: ignore[reportArgumentType]
    )


def gpu(
    device_id: str,
    core: float | None,
    memory: float | None,
    bandwidth: float | None,
    pod: str = "",
    *,
    host: str = "node-7",
    seen: str = "cmb",
    invalid: Sequence[str] = (),
) -> DeviceReading:
    """A GPU; `seen` has the initials of the groups that the exporter reported."""
    at = dict.fromkeys(seen, SCRAPED_AT)
    return DeviceReading(
        "gpu",
        device_id,
        namespace="llm" if pod else "",
        pod_name=pod,
        host=host,
        core_utilization=core,
        memory_utilization=memory,
        memory_bandwidth_utilization=bandwidth,
        core_observed_at=at.get("c"),
        memory_observed_at=at.get("m"),
        memory_bandwidth_observed_at=at.get("b"),
        invalid=frozenset(invalid),  # pyright: ignore[reportArgumentType]
    )


ALL = ("core", "memory", "memory_bandwidth")


def test_npu_exporter() -> None:
    """Each group has its own time, and a failed read is invalid or absent, never a number."""
    assert npu_exporter.read(body("npu_exporter_26_1"), SCRAPED_AT) == [
        *(npu(i, 60.0 + i, 68.0 + i % 3, 40.0 + i, "qwen-prefill-0") for i in range(8)),
        *(npu(i, 30.0 + i, 79.0, 70.0, "qwen-decode-0") for i in range(8, 12)),
        npu(12, 11.0, 4.0, 2.0),  # several pods use it
        npu(13, 0.0, 4.0, 0.0),  # no pod uses it
        npu(14, None, None, None, "qwen-decode-1", invalid=ALL),  # -1
        # No core value, memory from used and total, bandwidth another value of a failed read.
        npu(15, None, 50.0, None, "qwen-decode-1", core_at=None, invalid=["memory_bandwidth"]),
    ]


def test_old_npu_exporter() -> None:
    """An exporter without pods has one time for all; -1 falls back to used and total memory."""
    old_npu = partial(npu, hbm_at=UTILIZATION_AT)
    assert npu_exporter.read(body("npu_exporter_id_only"), SCRAPED_AT) == [
        *(old_npu(i, 10.0 * i, 3.0 * i, 5.0 * i) for i in range(5)),
        old_npu(5, None, 15.0, 25.0, invalid=["core"]),
        old_npu(6, 60.0, 100 * 6000 / 32768, 30.0),
        old_npu(7, 70.0, 21.0, None, invalid=["memory_bandwidth"]),
    ]


def test_chips_without_hbm() -> None:
    """The DDR of a chip without HBM is not used instead."""
    assert npu_exporter.read(body("npu_exporter_310p"), SCRAPED_AT) == [
        npu(i, 20.0 + i, None, None, "mindie-0", hbm_at=None) for i in range(4)
    ]


def test_dcgm_with_profiling() -> None:
    """Ratios take precedence over percentages, and DCGM's blanks are not values."""
    assert dcgm.read(body("dcgm_profiling"), SCRAPED_AT) == [
        *(gpu(str(i), 80.0 + i, 75.0, 40.0 + i, f"qwen-{i // 4}") for i in range(6)),
        gpu("6", 0.0, 100 * 4 / 81920, 0.0),  # no pod; the bandwidth as a percentage
        gpu("7", None, None, None, "qwen-2", invalid=ALL),
    ]


def test_dcgm_without_profiling() -> None:
    """Percentages, the older namespace labels, and a duplicate series are read."""
    assert dcgm.read(body("dcgm_old_namespace"), SCRAPED_AT) == [
        gpu(str(i), 70.0 + i, 25.0, 30.0 + i, "qwen-0") for i in range(4)
    ]


def test_mig_instances() -> None:
    """A MIG instance is a separate device."""
    assert dcgm.read(body("dcgm_mig"), SCRAPED_AT) == [
        gpu("0:1", 11.0, 52.5, 25.0, "qwen-0-1"),
        gpu("0:2", 12.0, 55.0, 25.0, "qwen-0-2"),
        gpu("1:1", 21.0, 52.5, 25.0, "qwen-1-1"),
        gpu("1:2", 22.0, 55.0, 25.0, "qwen-1-2"),
    ]


def test_gpu_shared_by_pods() -> None:
    """Used memory per pod is not divided by used plus free memory."""
    assert dcgm.read(body("dcgm_shared"), SCRAPED_AT) == [
        gpu("0", 40.0, None, 33.0, "qwen-0", seen="cb"),
        gpu("0", 13.0, None, 33.0, "qwen-1", seen="cb"),
    ]


def test_amd() -> None:
    """A value above 100 percent is invalid, and a missing series is unknown."""
    assert amd.read(body("amd"), SCRAPED_AT) == [
        *(gpu(str(i), 80.0 + i, 50.0, 40.0 + i, f"qwen-{i // 4}", host="node-9") for i in range(6)),
        gpu("6", 0.0, 100 * 283 / 196608, 0.0, host="node-9"),
        gpu(
            "7", None, None, None, "qwen-2", host="node-9", seen="cb",
            invalid=["core", "memory_bandwidth"],
        ),
    ]  # fmt: skip


def test_amd_partitions() -> None:
    """Only the first partition has activities; names may have a prefix."""
    assert amd.read(body("amd_partitions"), SCRAPED_AT) == [
        gpu("0", 55.0, 25.0, 22.0, "qwen-0", host="node-9"),
        *(gpu(str(i), None, 50.0, None, f"qwen-{i}", host="node-9", seen="m") for i in range(1, 4)),
    ]


def test_amd_partitions_that_share_an_id() -> None:
    """Partitions that share the id of their GPU are separate devices."""
    text = (
        'gpu_gfx_activity{gpu_id="0",gpu_partition_id="0"} 40\n'
        'gpu_gfx_activity{gpu_id="0",gpu_partition_id="1"} 60\n'
        'gpu_gfx_activity{gpu_id="1",gpu_partition_id="0"} 80\n'
    )

    readings = amd.read(text.encode(), SCRAPED_AT)

    assert [(one.device_id, one.core_utilization) for one in readings] == [
        ("0.0", 40.0),
        ("0.1", 60.0),
        ("1", 80.0),
    ]


@pytest.mark.parametrize("read", [npu_exporter.read, dcgm.read, amd.read])
@pytest.mark.parametrize("text", [b"", b"\n", b"\xff\xfe", b"<html>", b"# HELP x y\n" * 9])
def test_nothing_to_read(
    read: Callable[[bytes, float], Sequence[DeviceReading]], text: bytes
) -> None:
    """A body without devices gives no readings."""
    assert read(text, SCRAPED_AT) == []


@pytest.mark.parametrize(
    ("text", "memory", "invalid"),
    [
        ("used{} 5\ntotal{} 10", 50.0, ()),
        ("used{} 0\ntotal{} 10", 0.0, ()),
        ("used{} 5\ntotal{} 0", None, ("memory",)),
        ("used{} 11\ntotal{} 10", None, ("memory",)),
        ("used{} -1\ntotal{} 10", None, ("memory",)),
        ("used{} 5\ntotal{} -1", None, ("memory",)),
        ("used{} NaN\ntotal{} 10", None, ("memory",)),
        ("used{} 5\ntotal{} NaN", None, ("memory",)),
        ("used{} 5\ntotal{} +Inf", None, ("memory",)),
    ],
)
def test_share_of_memory(text: str, memory: float | None, invalid: Sequence[str]) -> None:
    """Used and total memory give a percentage only if both are valid."""
    exposition = (
        text.replace("used{}", 'gpu_used_vram{gpu_id="0"}')
        .replace("total{}", 'gpu_total_vram{gpu_id="0"}')
        .encode()
    )

    (reading,) = amd.read(exposition + b"\n", SCRAPED_AT)

    assert reading == gpu("0", None, memory, None, host="", seen="m", invalid=invalid)


def test_time_of_a_share() -> None:
    """A percentage of two values has the time of the older one."""
    exposition = (
        b'npu_chip_info_hbm_used_memory{id="0"} 1 3000\n'
        b'npu_chip_info_hbm_total_memory{id="0"} 2 2000\n'
    )

    (reading,) = npu_exporter.read(exposition, SCRAPED_AT)

    assert (reading.memory_utilization, reading.memory_observed_at) == (50.0, 2.0)


@pytest.mark.parametrize(
    ("value", "core"),
    [("0", 0.0), ("100", 100.0), ("1e2", 100.0), ("-1", None), ("100.5", None), ("NaN", None),
     ("+Inf", None), ("-Inf", None), ("4294967295", None)],
)  # fmt: skip
def test_range_of_utilization(value: str, core: float | None) -> None:
    """A utilization is 0 to 100 percent, or invalid."""
    exposition = f'npu_chip_info_utilization{{id="0"}} {value} {UTILIZATION_AT * 1000:.0f}\n'

    (reading,) = npu_exporter.read(exposition.encode(), SCRAPED_AT)

    assert reading == npu(
        0, core, None, None, hbm_at=None, invalid=() if core is not None else ["core"]
    )


def test_device_without_id() -> None:
    """A sample without a device id is ignored."""
    exposition = b'npu_chip_info_utilization 5\nnpu_chip_info_utilization{id=""} 5\n'

    assert npu_exporter.read(exposition, SCRAPED_AT) == []
