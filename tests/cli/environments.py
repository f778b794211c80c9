"""Environments for the doctor to examine, and the parsing of its output."""

from __future__ import annotations

from pathlib import Path
from textwrap import dedent


def make_package(folder: Path, **modules: str) -> None:
    """Makes a package."""
    folder.mkdir()
    (folder / "__init__.py").touch()
    for name, text in modules.items():
        (folder / f"{name}.py").write_text(dedent(text))


def make_distribution(
    folder: Path, name: str, group: str, entry_point: str, requires: str = ""
) -> None:
    """Makes a distribution with one entry point."""
    metadata = folder / f"{name.replace('-', '_')}-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n{requires}"
    )
    (metadata / "entry_points.txt").write_text(f"[{group}]\n{entry_point}\n")


def make_program(path: Path, text: str) -> None:
    """Makes a program."""
    path.write_text(text)
    path.chmod(0o755)


def words(*lines: str) -> str:
    """Return lines without their line breaks, which depend on the length of paths."""
    return " ".join(" ".join(lines).split())


def sections(output: str) -> dict[str, str]:
    """Return the text of each printed section by title; the text after the last is the verdict."""
    parts = [part.partition("\n") for part in output.rstrip("\n").split("\n\n")]
    return {title if rest else "verdict": words(rest or title) for title, _, rest in parts}
