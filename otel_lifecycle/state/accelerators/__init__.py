"""NPU and GPU state, from the bytes a source serves to one shape."""

from otel_lifecycle.state.accelerators.reading import STALE_AFTER, DeviceReading, Group, npu_state

__all__ = ["STALE_AFTER", "DeviceReading", "Group", "npu_state"]
