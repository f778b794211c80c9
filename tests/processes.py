"""Processes that are no children of a test."""

from __future__ import annotations

from pathlib import Path


def runs(pid: int) -> bool:
    """Return whether a process still runs; a zombie does not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (ProcessLookupError, FileNotFoundError):
        return False
    _, _, state = stat.rpartition(")")  # its name may have parentheses and spaces
    return state.split()[0] != "Z"
