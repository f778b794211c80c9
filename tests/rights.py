"""Files and folders that a process may not read, also if the tests run as root."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

_NOBODY = 65_534


@pytest.fixture
def guarded() -> Iterator[Path]:
    """A folder that everybody may enter; what is locked in it is unlocked at the end."""
    if os.name == "nt":
        pytest.skip("file modes do not keep anybody from reading")
    folder = Path(os.path.realpath(tempfile.mkdtemp()))
    try:
        folder.chmod(0o755)
        yield folder
    finally:
        for each in folder.iterdir():
            each.chmod(0o755)
        shutil.rmtree(folder)


@contextmanager
def without_privileges() -> Iterator[None]:
    """Temporarily drop root's right to read everything; other users never have it."""
    if os.geteuid() != 0:
        yield
        return
    os.setegid(_NOBODY)
    os.seteuid(_NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)
