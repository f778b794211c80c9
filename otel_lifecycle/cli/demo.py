"""`otel-lifecycle demo`: runs the demo of the examples, from a wheel or a checkout."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import otel_lifecycle
from otel_lifecycle.cli.errors import CommandError


def run(arguments: argparse.Namespace) -> int:
    """Run the demo; return the exit code."""
    import_examples()
    from demo.run import DemoOptions, run

    options = {name: value for name, value in vars(arguments).items() if name != "run"}
    return run(DemoOptions(**options))


def import_examples() -> None:
    """Make the packages of the examples importable."""
    package = Path(otel_lifecycle.__file__).parent
    # In a wheel, and in a checkout.
    folders = [package / "_examples", package.parent / "examples"]
    examples = next((folder for folder in folders if (folder / "demo").is_dir()), None)
    if examples is None:
        raise CommandError(f"the examples are missing: not in {folders[0]} or {folders[1]}")
    sys.path.insert(0, str(examples))
