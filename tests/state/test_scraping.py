"""Whatever a target does, it costs one bounded scrape, one state and one log line."""

from __future__ import annotations

import gzip
import socket
import ssl
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
import trustme

from otel_lifecycle import Endpoint
from tests.conftest import Bench
from tests.state.conftest import endpoint_of, reasons, request
from tests.state.servers import (
    Answer,
    Site,
    chunked,
    cut_off,
    dripping,
    engine_exposition,
    packed,
    send,
)
from tests.waiting import eventually

GOOD = engine_exposition()


def redirecting(handler: BaseHTTPRequestHandler) -> None:
    """Redirect the client."""
    send(handler, b"", status=302, Location="/elsewhere")


def as_type(content_type: str) -> Answer:
    """Send valid metrics with another content type."""
    return lambda handler: send(handler, GOOD, content_type=content_type)


def packed_as(encoding: str, body: bytes) -> Answer:
    """Send a body with a content encoding."""
    return lambda handler: send(handler, body, Content_Encoding=encoding)


ANSWERS: dict[str, tuple[Answer | bytes, str]] = {
    "/plain": (GOOD, "up"),
    "/gzip": (packed(GOOD), "up"),
    "/chunked": (chunked(GOOD), "up"),
    "/openmetrics": (as_type("application/openmetrics-text; version=1.0.0"), "up"),
    "/redirect": (redirecting, "http_302"),
    "/unauthorized": (lambda handler: send(handler, b"", status=401), "http_401"),
    "/broken": (lambda handler: send(handler, b"", status=500), "http_500"),
    "/huge": (b"# comment\n" * 20_000, "too_large"),
    "/bomb": (packed(b"\n" * 50_000_000), "too_large"),
    "/html": (as_type("text/html"), "wrong_content_type"),
    "/brotli": (packed_as("br", GOOD), "bad_encoding"),
    "/no-gzip": (packed_as("gzip", GOOD), "bad_encoding"),
    "/half-gzip": (packed_as("gzip", gzip.compress(GOOD)[:-9]), "bad_encoding"),
    "/cut-off": (cut_off(GOOD), "broken_response"),
    "/garbage": (bytes(range(256)) * 100, "no_metrics"),
    "/empty": (b"", "no_metrics"),
}


def states(caplog: pytest.LogCaptureFixture, site: Site) -> dict[str, str]:
    """Return the state of each target from its only log line."""
    lines = [line.removeprefix(f"engine {site.url}") for line in caplog.messages]
    found = [line.partition(": ") for line in lines if line.startswith("/")]
    assert len({path for path, _, _ in found}) == len(found)
    return {path: state.split(":")[0].split()[0] for path, _, state in found}


def test_answers(
    collecting: Callable[..., Bench], site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    """Each kind of answer has its state; none costs more than one scrape at a time."""
    caplog.set_level("INFO", "otel_lifecycle.state")
    site.answers = {path: answer for path, (answer, _) in ANSWERS.items()}
    bench = collecting(
        targets=",".join(f"{site.url}{path}" for path in ANSWERS), max_response_bytes=100_000
    )
    site.answers["/dripping"] = dripping
    collecting(targets=f"{site.url}/dripping", timeout="200ms")
    expected = {path: state for path, (_, state) in ANSWERS.items()}
    expected["/dripping"] = "timeout"

    eventually(lambda: states(caplog, site) == expected)
    eventually(lambda: site.asked["/plain"] > 5)
    assert states(caplog, site) == expected
    assert site.asked["/elsewhere"] == 0
    assert reasons(request(bench, endpoint_of(site)))["kvCacheUsage"] == "metrics_missing"


def test_nobody_there(
    collecting: Callable[..., Bench],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A port without a server and a name without an address are `unreachable`."""
    resolve = socket.getaddrinfo

    def without_network(host: Any, *arguments: Any, **options: Any) -> Any:
        if host == "no-such-host.invalid":
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return resolve(host, *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", without_network)
    with socket.socket() as silent:  # keeps its port from others
        silent.bind(("127.0.0.1", 0))
        port = silent.getsockname()[1]
        collecting(targets=f"http://127.0.0.1:{port}/metrics, http://no-such-host.invalid/metrics")
        eventually(lambda: len(caplog.messages) == 2)

    assert sorted(message.split(": ")[1] for message in caplog.messages) == ["unreachable"] * 2


def test_endpoint_with_a_bad_address(
    collecting: Callable[..., Bench], site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    """An endpoint whose address makes an invalid URL is reported; requests continue."""
    import msgspec

    bench = collecting()
    endpoint = msgspec.structs.replace(endpoint_of(site), address="no host", port="port")

    assert request(bench, endpoint).outcome == "completed"
    eventually(lambda: len(caplog.messages) == 1)
    assert "bad_url" in caplog.messages[0]


def test_npu_smi(
    collecting: Callable[..., Bench],
    site: Site,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The command on this host describes the endpoint there; without it one line is logged."""
    stand_in = Path(__file__).parent / "accelerators"
    endpoint = Endpoint(address="127.0.0.1", port=str(site.port))
    with monkeypatch.context() as patch:
        patch.setenv("PATH", str(site.port))
        without = collecting(targets="npu_smi")
        eventually(lambda: "command_failed" in caplog.text)
        without.tracker.close()
    with monkeypatch.context() as patch:
        patch.setenv("PATH", f"{stand_in}:/usr/bin:/bin")
        patch.setenv("MODE", "")
        bench = collecting(targets="npu_smi", endpoints=False, interval="1s")
        eventually(lambda: "aiCoreUtilization" not in reasons(request(bench, endpoint)))
        bench.tracker.close()  # the command is gone with the path

    npu = bench.records[-1].selected_route.leader.npu  # type: ignore[union-attr]
    assert [(one.target, one.device_id) for one in npu.devices] == [  # type: ignore[union-attr]
        ("npu_smi", "0"),
        ("npu_smi", "4"),
    ]
    assert caplog.text.count("npu_smi on this host") == 1


def test_dead_target_is_left_alone(collecting: Callable[..., Bench], site: Site) -> None:
    """A target that fails repeatedly is asked less and less often."""
    site.answers = {"/plain": GOOD}
    began = time.monotonic()
    collecting(targets=f"{site.url}/plain, {site.url}/missing", max_backoff="1h")

    eventually(lambda: site.asked["/plain"] > 20 and site.asked["/missing"] > 1)
    attempts = site.asked["/missing"]
    # From the second on each pause is twice as long as the one before, or a tenth less by chance.
    assert sum(0.9 * 0.05 * 2**number for number in range(1, attempts - 1)) <= (
        time.monotonic() - began
    )


def test_hanging_targets_leave_room(collecting: Callable[..., Bench], site: Site) -> None:
    """With one scrape at a time, hanging targets delay others only by their timeout."""
    site.answers = {"/plain": GOOD, "/dripping": dripping}
    collecting(
        targets=f"{site.url}/dripping, {site.url}/plain",
        concurrency=1,
        timeout="100ms",
        max_backoff="1h",
    )

    eventually(lambda: site.asked["/plain"] > 10)


def test_close_does_not_wait_for_targets(collecting: Callable[..., Bench], site: Site) -> None:
    """Closing cancels a running scrape."""
    site.answers = {"/dripping": dripping}
    bench = collecting(targets=f"{site.url}/dripping", timeout="1h")
    eventually(lambda: site.asked["/dripping"] == 1)

    began = time.monotonic()
    bench.tracker.close()
    assert time.monotonic() - began < bench.tracker.config.close_timeout.total_seconds() / 2


def test_authorization(collecting: Callable[..., Bench], site: Site, tmp_path: Path) -> None:
    """A token or a complete `Authorization` is read from a file, and sent only to its target."""
    seen: dict[str, str | None] = {}

    def answer(handler: BaseHTTPRequestHandler) -> None:
        seen[handler.path] = handler.headers["Authorization"]
        send(handler, GOOD)

    site.answers = {"/token": answer, "/basic": answer, "/none": answer}
    (tmp_path / "token").write_text("abc\n")
    (tmp_path / "basic").write_text("Basic bWU6c2VjcmV0")
    collecting(
        targets=[
            {"url": f"{site.url}/token", "authorization_file": str(tmp_path / "token")},
            {"url": f"{site.url}/basic", "authorization_file": str(tmp_path / "basic")},
            {"url": f"{site.url}/none"},
        ]
    )

    eventually(lambda: len(seen) == 3)
    assert seen == {"/token": "Bearer abc", "/basic": "Basic bWU6c2VjcmV0", "/none": None}


@pytest.fixture
def authority() -> trustme.CA:
    """The certificate authority."""
    return trustme.CA()


@pytest.fixture
def secure_site(make_site: Callable[..., Site], authority: trustme.CA) -> Site:
    """A site behind https that requires a client certificate of its authority."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.configure_trust(context)
    context.verify_mode = ssl.CERT_REQUIRED
    site = make_site(tls=context)
    site.answers = {"/metrics": GOOD}
    return site


def test_tls(
    collecting: Callable[..., Bench],
    secure_site: Site,
    authority: trustme.CA,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """An untrusted certificate is a `tls_error`; with CA and client certificate it is up."""
    caplog.set_level("INFO", "otel_lifecycle.state")
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    authority.issue_cert("router").private_key_and_cert_chain_pem.write_to_path(
        str(tmp_path / "own.pem")
    )
    target = f"{secure_site.url}/metrics"
    trusting = {"ca_file": str(tmp_path / "ca.pem"), "cert_file": str(tmp_path / "own.pem")}

    refused = f"engine {target}: tls_error: "  # a scrape may time out before
    collecting(targets=target)
    eventually(lambda: any(line.startswith(refused) for line in caplog.messages))
    collecting(targets=target, **trusting)
    eventually(lambda: any(line.startswith(f"engine {target}: up") for line in caplog.messages))

    line = next(line for line in caplog.messages if line.startswith(refused))
    assert "certificate verify failed" in line
