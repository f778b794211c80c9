"""`otel-lifecycle simulate`: runs the simulation of the examples."""

from __future__ import annotations

import argparse

from otel_lifecycle.cli.demo import import_examples


def run(arguments: argparse.Namespace) -> int:
    """Run the simulation; return the exit code."""
    import_examples()
    from simulation.command import SimulationOptions, run

    options = {name: value for name, value in vars(arguments).items() if name != "run"}
    return run(SimulationOptions(**options))
