"""The benchmarks run and print their results; the measured values are not tested."""

from __future__ import annotations

import pytest

from benchmarks.peers import compare
from benchmarks.report import peers_section


def test_peers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each peer is listed with its result, or with the reason why it is missing."""
    monkeypatch.setattr(compare, "MODULES", ("ours", "production_stack", "not_installed"))
    monkeypatch.setattr(compare, "ROUNDS", 2)
    monkeypatch.setattr(compare, "REQUESTS", 2)
    comparison = compare.compare()
    page = "\n".join(peers_section(comparison))

    assert [
        (peer.name, peer.spans, peer.attributes, peer.events, peer.file_bytes is not None)
        for peer in comparison.peers
    ] == [
        ("ours, 40 attributes", 1, 40, 2, True),
        ("ours, one endpoint and its NPUs", 1, 49, 2, True),
        ("ours, prefill and decode", 1, 72, 2, True),
        ("ours, not sampled, recorded", 0, 0, 0, True),
        ("production-stack's tracing", 2, 14, 0, False),
    ]
    assert [sorted(peer.says) for peer in comparison.peers[2:]] == [
        sorted(compare.FACTS),
        sorted(set(compare.FACTS) - {"prefill/decode"}),
        ["endpoint"],
    ]
    assert comparison.missing == {
        "not_installed": "ModuleNotFoundError: No module named 'benchmarks.peers.not_installed'"
    }
    assert page.endswith(f"`not_installed` is missing: {comparison.missing['not_installed']}.")
