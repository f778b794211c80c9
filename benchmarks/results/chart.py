"""Draws bars as SVG, on a linear axis from zero, readable on light and dark pages."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple
from xml.etree import ElementTree

_STYLE = """
text { font: 13px system-ui, sans-serif; fill: #1f2328 }
.title { font-size: 16px; font-weight: 600 }
.quiet { fill: #59636e }
.base { fill: #b6bec8 }
.added { fill: #0969da }
line { stroke: #d1d9e0 }
.limit { stroke: #bc4c00; stroke-dasharray: 4 3 }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3 }
  .quiet { fill: #9198a1 }
  .base { fill: #57606a }
  .added { fill: #4493f8 }
  line { stroke: #3d444d }
  .limit { stroke: #f0883e }
}
"""
_WIDTH, _LEFT, _RIGHT, _TOP, _ROW, _BAR = 860, 280, 150, 84, 38, 20


class Bar(NamedTuple):
    """One router.

    Attributes:
        title: Its name.
        ratio: Its CPU with zero code, relative to that without.
        added_us: What zero code adds to a request, microseconds.
    """

    title: str
    ratio: float
    added_us: float


def draw(title: str, legend: str, bars: Sequence[Bar], limit: float) -> str:
    """Return the chart: 1 is the router without instrumentation, the rest is added.

    Args:
        title: The takeaway.
        legend: What the bars are.
        bars: From top to bottom.
        limit: The budget.
    """
    highest = max(2, math.ceil(max(bar.ratio for bar in bars)))
    bottom = _TOP + _ROW * len(bars)
    size = {"viewBox": f"0 0 {_WIDTH} {bottom + 40}", "width": str(_WIDTH), "role": "img"}
    svg = ElementTree.Element("svg", {"xmlns": "http://www.w3.org/2000/svg", **size})
    ElementTree.SubElement(svg, "title").text = title
    ElementTree.SubElement(svg, "style").text = _STYLE

    def at(ratio: float) -> float:
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * ratio / highest

    def text(x: float, y: float, said: str, kind: str = "", anchor: str = "start") -> None:
        place = {"x": f"{x:.1f}", "y": f"{y:.1f}", "class": kind, "text-anchor": anchor}
        ElementTree.SubElement(svg, "text", place).text = said

    def line(x: float, kind: str = "") -> None:
        ends = {"x1": f"{x:.1f}", "x2": f"{x:.1f}", "y1": f"{_TOP - 8}", "y2": f"{bottom}"}
        ElementTree.SubElement(svg, "line", {**ends, "class": kind})

    text(16, 28, title, "title")
    text(16, 50, legend, "quiet")
    for step in range(2 * highest + 1):
        line(at(step / 2))
        text(at(step / 2), bottom + 20, f"{step / 2:g} ×", "quiet", "middle")
    for number, bar in enumerate(bars):
        top = _TOP + _ROW * number
        text(_LEFT - 12, top + 15, bar.title, anchor="end")
        for kind, start, end in (("base", 0.0, 1.0), ("added", 1.0, max(1.0, bar.ratio))):
            box = {"x": f"{at(start):.1f}", "width": f"{at(end) - at(start):.1f}", "class": kind}
            ElementTree.SubElement(svg, "rect", {**box, "y": str(top), "height": str(_BAR)})
        label = f"{bar.ratio:.2f} ×, {bar.added_us / 1000:+.2f} ms"
        text(at(highest) + 16, top + 15, label)
    line(at(limit), "limit")
    text(at(limit) + 4, _TOP - 12, f"budget of a lean router: {limit:g} ×", "quiet")
    ElementTree.indent(svg)
    return ElementTree.tostring(svg, "unicode") + "\n"
