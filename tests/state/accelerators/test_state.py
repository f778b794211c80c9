"""Device readings become the state of an endpoint: staleness by group, averages, faults."""

from __future__ import annotations

import math
from datetime import datetime, timezone

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from otel_lifecycle import NPUDevice, NPUState
from otel_lifecycle.model.features import missing_npu
from otel_lifecycle.model.sanitize import npu as sanitized
from otel_lifecycle.state.accelerators import STALE_AFTER, DeviceReading, npu_state
from otel_lifecycle.state.accelerators.reading import Group

NOW = 1_755_859_200.0


def device(device_id: str = "0", age: float = 1.0, hbm_age: float = 40.0) -> DeviceReading:
    """A chip with all values known."""
    return DeviceReading(
        "npu",
        device_id,
        target="10.0.1.3:8082",
        core_utilization=60.0 + int(device_id),
        memory_utilization=70.0,
        memory_bandwidth_utilization=40.0,
        core_observed_at=NOW - age,
        memory_observed_at=NOW - hbm_age,
        memory_bandwidth_observed_at=NOW - hbm_age,
    )


def moment(seconds: float) -> datetime:
    """Return the UTC datetime of some seconds since the epoch."""
    return datetime.fromtimestamp(seconds, timezone.utc)


def change(reading: DeviceReading, **changes: object) -> DeviceReading:
    """Return a changed copy."""
    return msgspec.structs.replace(reading, **changes)


def reasons(state: NPUState) -> dict[str, str]:
    """Return why features of the predictor are missing."""
    return {
        feature: reason.value
        for feature, reason in missing_npu(state, sanitized(state), stale=False)
    }


def test_fresh() -> None:
    """Averages and maxima cover all devices; the observation time is the oldest device's."""
    assert npu_state([device("0", age=2.0), device("1", age=1.0)], now=NOW) == NPUState(
        observation_time=moment(NOW - 2.0),
        data_status="fresh",
        device_count=2,
        ai_core_utilization_avg=60.5,
        ai_core_utilization_max=61.0,
        hbm_utilization_avg=70.0,
        hbm_utilization_max=70.0,
        hbm_bandwidth_utilization_avg=40.0,
        hbm_bandwidth_utilization_max=40.0,
        devices=(
            NPUDevice("10.0.1.3:8082", "0", 60.0, 70.0, 40.0),
            NPUDevice("10.0.1.3:8082", "1", 61.0, 70.0, 40.0),
        ),
    )


def test_gpu() -> None:
    """GPUs have the same state."""
    assert npu_state([change(device(), kind="gpu")], now=NOW) == npu_state([device()], now=NOW)


def test_missing() -> None:
    """Without readings nothing is known, not even that there are no devices."""
    state = npu_state([], now=NOW)

    assert state == NPUState(data_status="missing")
    assert set(reasons(state).values()) == {"npu_missing"}


def test_nothing_told_of_a_device() -> None:
    """A device without any value is counted too."""
    state = npu_state([DeviceReading("npu", "0")], now=NOW)

    assert state == NPUState(
        data_status="missing", device_count=1, devices=(NPUDevice(device_id="0"),)
    )


@pytest.mark.parametrize(
    ("age", "hbm_age", "status"),
    [
        (1, 60, "fresh"),  # as npu-exporter is by default since v26.1.0
        (15, 180, "fresh"),
        (1, 181, "partial"),  # the memory is no longer read
        (
            16,
            60,
            "stale",
        ),  # nothing is read: the memory's limit is longer only because it is refreshed slowly
        (16, 181, "stale"),
        (-15, -15, "fresh"),  # clocks disagree a little
        (-16, -16, "stale"),  # and too much
        (-1e9, -1e9, "stale"),
        (1e9, 1e9, "stale"),
    ],
)
def test_staleness_by_group(age: float, hbm_age: float, status: str) -> None:
    """Each group has its own limit, in both directions of time."""
    state = npu_state([device(age=age, hbm_age=hbm_age)], now=NOW)

    assert state.data_status == status
    assert state.observation_time is not None
    assert state.observation_time <= moment(NOW)


def test_own_limits() -> None:
    """Limits can be set for each group."""
    limits: dict[Group, float] = {**STALE_AFTER, "core": 5.0}

    assert npu_state([device(age=6.0)], now=NOW, stale_after=limits).data_status == "stale"
    assert npu_state([device(age=5.0)], now=NOW, stale_after=limits).data_status == "fresh"


def test_stale() -> None:
    """A stale state keeps the last known values, which are not used as features."""
    state = npu_state([device()], now=NOW + 1000)

    assert (state.data_status, state.observation_time) == ("stale", moment(NOW - 1.0))
    assert (state.ai_core_utilization_avg, state.hbm_utilization_max) == (60.0, 70.0)
    assert set(reasons(state).values()) == {"npu_stale"}


def test_one_stale_device() -> None:
    """A stale device is left out if there are fresh ones."""
    state = npu_state([device("0", age=100.0), device("9")], now=NOW)

    assert state == NPUState(
        observation_time=moment(NOW - 1.0),
        data_status="partial",
        device_count=2,
        ai_core_utilization_avg=69.0,
        ai_core_utilization_max=69.0,
        hbm_utilization_avg=70.0,
        hbm_utilization_max=70.0,
        hbm_bandwidth_utilization_avg=40.0,
        hbm_bandwidth_utilization_max=40.0,
        devices=(
            NPUDevice("10.0.1.3:8082", "0"),
            NPUDevice("10.0.1.3:8082", "9", 69.0, 70.0, 40.0),
        ),
    )
    assert reasons(state) == {}


def test_no_hbm() -> None:
    """Chips without HBM are `partial`, which is also the reason."""
    chip = change(
        device(),
        memory_utilization=None,
        memory_bandwidth_utilization=None,
        memory_observed_at=None,
        memory_bandwidth_observed_at=None,
    )
    state = npu_state([chip], now=NOW)

    assert (state.data_status, state.ai_core_utilization_avg) == ("partial", 60.0)
    assert (state.hbm_utilization_avg, state.hbm_bandwidth_utilization_max) == (None, None)
    assert reasons(state) == {
        "hbmUtilization": "npu_partial",
        "bandwidthUtilization": "npu_partial",
    }


def test_invalid_value() -> None:
    """A value out of range is left out if there are valid ones; otherwise it is the reason."""
    bad = change(device("1"), core_utilization=None, invalid=frozenset({"core"}))
    both, alone = npu_state([device("0"), bad], now=NOW), npu_state([bad], now=NOW)

    assert (both.data_status, both.ai_core_utilization_avg, reasons(both)) == ("partial", 60.0, {})
    assert alone.data_status == "partial"
    assert math.isnan(alone.ai_core_utilization_avg or 0.0)
    assert reasons(alone) == {"aiCoreUtilization": "npu_invalid_value"}
    safe = sanitized(alone)
    assert safe is not None
    assert (safe.ai_core_utilization_avg, safe.ai_core_utilization_max) == (None, None)
    assert safe.devices == (NPUDevice("10.0.1.3:8082", "1", None, 70.0, 40.0),)


def test_device_read_twice() -> None:
    """If a device was read twice or is shared by pods, the newest reading counts."""
    older = change(device(age=9.0), core_utilization=1.0)
    pods = [change(device(), pod_name=f"qwen-{i}") for i in range(2)]

    assert npu_state([older, *pods, older], now=NOW) == npu_state([device()], now=NOW)


def test_devices_of_two_hosts() -> None:
    """Devices with one id at different targets or hosts are different devices."""
    other = change(device(), target="10.0.1.4:8082")

    assert npu_state([device(), other], now=NOW).device_count == 2
    assert npu_state([device(), change(device(), host="node-1")], now=NOW).device_count == 2


moments = st.none() | st.floats(NOW - 400, NOW + 400) | st.floats()
percents = st.none() | st.floats(0, 100)
readings = st.builds(
    DeviceReading,
    st.sampled_from(["npu", "gpu"]),
    st.sampled_from("012"),
    core_utilization=percents,
    memory_utilization=percents,
    memory_bandwidth_utilization=percents,
    core_observed_at=moments,
    memory_observed_at=moments,
    memory_bandwidth_observed_at=moments,
    invalid=st.frozensets(st.sampled_from(["core", "memory", "memory_bandwidth"])),
)


@given(st.lists(readings, max_size=5))
def test_any_readings(given_readings: list[DeviceReading]) -> None:
    """No readings raise, and the recorded values lie within the readings."""
    state = sanitized(npu_state(given_readings, now=NOW))

    assert state is not None
    for group, field in (
        ("core", "ai_core_utilization"),
        ("memory", "hbm_utilization"),
        ("memory_bandwidth", "hbm_bandwidth_utilization"),
    ):
        read = [
            value
            for reading in given_readings
            if (value := getattr(reading, f"{group}_utilization")) is not None
        ]
        average, maximum = getattr(state, f"{field}_avg"), getattr(state, f"{field}_max")
        assert (average is None) == (maximum is None)
        if average is not None:
            assert min(read) - 1e-6 <= average <= max(read) + 1e-6
            assert any(abs(maximum - value) <= 1e-6 for value in read)
