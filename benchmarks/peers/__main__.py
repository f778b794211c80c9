"""Prints the comparison: `python -m benchmarks.peers`, in the peers' environment."""

from __future__ import annotations

from benchmarks.peers.compare import compare
from benchmarks.results.peers import section

if __name__ == "__main__":
    print("\n".join(section(compare())))
