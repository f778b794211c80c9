"""Converts the responses of all NPU and GPU sources to one type."""

from otel_lifecycle.state.accelerators.reading import STALE_AFTER, DeviceReading, Group, npu_state

__all__ = ["STALE_AFTER", "DeviceReading", "Group", "npu_state"]
