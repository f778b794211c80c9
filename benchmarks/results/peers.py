"""What the page says of the peers."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.peers.compare import FACTS, Comparison
from benchmarks.peers.peer import CHUNKS
from benchmarks.results.tables import table

_PEERS = """\
The request has one answer of {chunks} chunks. Each peer records metrics, and its spans are exported
over OTLP. The path is the work that a request waits for: the CPU of its own thread, minus that of
the same request without instrumentation. "Of bare" compares with bare SDK spans that have the
peer's attributes and events, prepared in advance and all set at the start. "All threads" includes
writing records, and exporting to a process that forgets.

The peers do different work; the second table shows what each records. `bare SDK span`, `logfire`,
the OTLP-JSON file and `Python logging` get our 40 values ready-made, whereas ours computes them.
`production-stack's tracing` makes the same calls to the SDK as its router; the router itself is in
the first table of this page. `LiteLLM's callback` is called once, after the answer. `Python
logging` writes its line on the request's path.
"""

_GIVEN = ("bare SDK span", "logfire", "Python logging")


def section(comparison: Comparison) -> Iterator[str]:
    """Return two tables: the cost of each peer, and its output."""
    yield _PEERS.format(chunks=CHUNKS)
    yield from table(
        (
            "peer",
            "on the path, µs",
            "min",
            "p10-p90",
            "of bare",
            "an attribute, µs",
            "all threads, exported, µs",
        ),
        (
            (
                f"{peer.name} {peer.version}".strip(),
                f"{peer.path.median:.0f}",
                f"{peer.path.minimum:.0f}",
                f"{peer.path.p10:.0f}-{peer.path.p90:.0f}",
                "" if peer.ratio is None else f"{peer.ratio:.2f} x",
                f"{peer.per_attribute:.1f}" if peer.attributes else "",
                f"{peer.everything:.0f}",
            )
            for peer in comparison.peers
        ),
    )
    yield ""
    yield from table(
        ("peer", "spans", "attributes", "events", *FACTS, "file of records, bytes"),
        (
            (
                peer.name,
                str(peer.spans),
                str(peer.attributes),
                str(peer.events),
                *("yes" if fact in peer.says else "" for fact in FACTS),
                "" if peer.file_bytes is None else f"{peer.file_bytes:,.0f}",
            )
            for peer in comparison.peers
        ),
    )
    yield from _verdict(comparison)
    for name, reason in comparison.missing.items():
        yield f"\n`{name}` is missing: {reason}."


def _verdict(comparison: Comparison) -> Iterator[str]:
    """Return how ours compares with peers that gather their own data."""
    ours = comparison.peers[[peer.name for peer in comparison.peers].index("ours, 40 attributes")]
    others = [peer for peer in comparison.peers if not peer.name.startswith(("ours", *_GIVEN))]
    cheaper = [peer for peer in others if peer.path.median < ours.path.median]
    dearer = len(others) - len(cheaper)
    yield (
        f"\nOf the {len(others)} peers that gather their own data, {dearer} cost more on the path "
        "than ours with 40 attributes. Cheaper:"
    )
    for peer in cheaper:
        yield (
            f"`{peer.name}`, with {peer.attributes} attributes of "
            f"{peer.per_attribute:.1f} us each; ours takes {ours.per_attribute:.1f} us each."
        )
    if not cheaper:
        yield "none."
