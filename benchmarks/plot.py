"""Draws the comparison and the growth as one picture, with the peers' matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib
from matplotlib import pyplot

from benchmarks.growth import Growth
from benchmarks.peers.compare import Comparison

_OURS, _THEIRS = "#1f6feb", "#8b949e"


def plot(
    comparison: Comparison, endpoints: Sequence[Growth], in_flight: Sequence[Growth], path: Path
) -> None:
    """Write the picture to `path`, as SVG."""
    matplotlib.rcParams["svg.hashsalt"] = "otel-lifecycle"  # equal figures give an equal file
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(13, 5.5), width_ratios=(3, 2))
    peers = sorted(comparison.peers, key=lambda peer: -peer.path.median)
    left.barh(
        [f"{peer.name} ({peer.attributes})" for peer in peers],
        [peer.path.median for peer in peers],
        xerr=[
            [peer.path.median - peer.path.p10 for peer in peers],
            [peer.path.p90 - peer.path.median for peer in peers],
        ],
        color=[_OURS if peer.name.startswith("ours") else _THEIRS for peer in peers],
        ecolor="#30363d",
        capsize=2,
    )
    left.set_xscale("log")
    left.set_xlabel("CPU on the path of a streamed request, µs (p10 to p90)")
    left.set_title("By peer (attributes it records)", loc="left")
    for label, rows in (("endpoints", endpoints), ("requests in flight", in_flight)):
        right.plot(
            [row.size for row in rows], [row.path.median for row in rows], marker="o", label=label
        )
    right.set_xscale("log")
    right.set_ylim(bottom=0)
    right.set_ylabel("CPU of a request, µs")
    right.set_title("By number of", loc="left")
    right.legend()
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    # matplotlib writes trailing blanks.
    lines = path.read_text("utf-8").splitlines()
    path.write_text("\n".join(line.rstrip() for line in lines) + "\n", "utf-8")
