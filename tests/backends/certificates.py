"""Certificates made for a test."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path

import trustme

HOST = "localhost"


@dataclass(frozen=True)
class Certificates:
    """Paths of PEM files.

    Attributes:
        collector: The environment of a collector with `tls.yaml`.
        router: The environment of a router that trusts it.
    """

    collector: dict[str, str]
    router: dict[str, str]


def make_certificates(folder: Path, *, mutual: bool, expired: bool = False) -> Certificates:
    """Make a CA and the certificates it signs.

    Args:
        folder: Folder for the files.
        mutual: Whether the collector requires client certificates.
        expired: Whether the collector's certificate is expired.
    """
    now = datetime.now(timezone.utc)
    authority = trustme.CA()
    server = authority.issue_cert(
        HOST,
        not_before=now - timedelta(days=2),
        not_after=now + timedelta(days=-1 if expired else 1),
    )
    ca, certificate, key = folder / "ca.pem", folder / "server.pem", folder / "server.key"
    authority.cert_pem.write_to_path(ca)
    server.cert_chain_pems[0].write_to_path(certificate)
    server.private_key_pem.write_to_path(key)
    collector = {"OTLP_CERT_FILE": str(certificate), "OTLP_KEY_FILE": str(key)}
    # requests prefers the CA bundles in its environment over the exporter's.
    router = {
        "OTEL_EXPORTER_OTLP_CERTIFICATE": str(ca),
        "REQUESTS_CA_BUNDLE": "",
        "CURL_CA_BUNDLE": "",
    }
    if mutual:
        client = authority.issue_cert("router@example.com")
        certificate, key = folder / "client.pem", folder / "client.key"
        client.cert_chain_pems[0].write_to_path(certificate)
        client.private_key_pem.write_to_path(key)
        collector["OTLP_CLIENT_CA_FILE"] = str(ca)
        router["OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE"] = str(certificate)
        router["OTEL_EXPORTER_OTLP_CLIENT_KEY"] = str(key)
    return Certificates(collector, router)
