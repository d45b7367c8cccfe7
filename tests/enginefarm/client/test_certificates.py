"""Trusted certificates: a private authority, and variables that name no certificates."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
import trustme

from enginefarm.client.farm import Farm
from enginefarm.contract.errors import FarmError, InvalidRequest
from tests.enginefarm.farm_double import FarmDouble
from tests.servers.tls import TlsFront


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove what the machine's own environment says about certificates."""
    for name in ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)


def test_a_private_authority_is_trusted_for_calls_and_for_files(
    monkeypatch: pytest.MonkeyPatch, double: FarmDouble, tmp_path: Path
) -> None:
    engine = double.publish({"a": b"a"})
    with TlsFront(double.port, tmp_path) as front:
        url = f"https://localhost:{front.port}"
        with Farm(url) as client, pytest.raises(FarmError, match=r"certificate.*SSL_CERT_FILE"):
            client.workers()
        monkeypatch.setenv("SSL_CERT_FILE", str(front.authority))
        with Farm(url) as client:
            assert client.workers() == []
            with client.bytes(engine.contents[0].url, headers={}) as response:
                assert b"".join(response.chunks) == b"a"


@pytest.mark.parametrize("content", [None, b"", b"no certificate", "folder"])
def test_a_file_without_certificates_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: bytes | str | None
) -> None:
    path = tmp_path / "authority.pem"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content:
        path.mkdir()
    monkeypatch.setenv("SSL_CERT_FILE", str(path))
    with Farm("https://farm.example") as client, pytest.raises(InvalidRequest) as caught:
        client.workers()
    assert f"SSL_CERT_FILE={path}" in caught.value.detail
    assert "SSL_CERT_DIR" not in caught.value.detail


def test_a_missing_folder_of_certificates_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_DIR", "/nowhere:/nowhere/else")
    with Farm("https://farm.example") as client, pytest.raises(InvalidRequest, match="SSL_CERT_DIR=/nowhere:"):
        client.workers()


def test_http_needs_no_certificates(monkeypatch: pytest.MonkeyPatch, double: FarmDouble) -> None:
    for name in ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE"):
        monkeypatch.setenv(name, "/nowhere")
    with Farm(double.url) as client:
        assert client.workers() == []


def test_variables_of_other_programs_are_not_read(
    monkeypatch: pytest.MonkeyPatch, double: FarmDouble, tmp_path: Path
) -> None:
    with TlsFront(double.port, tmp_path) as front, Farm(f"https://localhost:{front.port}") as client:
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(front.authority))
        with pytest.raises(FarmError, match=r"SSL_CERT_FILE names .* REQUESTS_CA_BUNDLE is not read"):
            client.workers()


def test_the_variable_that_replaces_the_system_s_authorities_is_named(
    monkeypatch: pytest.MonkeyPatch, double: FarmDouble, tmp_path: Path
) -> None:
    other = tmp_path / "other.pem"
    trustme.CA().cert_pem.write_to_path(str(other))
    monkeypatch.setenv("SSL_CERT_FILE", str(other))
    with TlsFront(double.port, tmp_path) as front, Farm(f"https://localhost:{front.port}") as client:
        message = f"Only the authorities of SSL_CERT_FILE={other} are trusted"
        with pytest.raises(FarmError, match=message):
            client.workers()


def test_an_expired_certificate_points_at_the_clock(
    monkeypatch: pytest.MonkeyPatch, double: FarmDouble, tmp_path: Path
) -> None:
    with TlsFront(double.port, tmp_path, not_after=datetime(2020, 1, 1, tzinfo=UTC)) as front:
        monkeypatch.setenv("SSL_CERT_FILE", str(front.authority))
        with Farm(f"https://localhost:{front.port}") as client, pytest.raises(FarmError, match="clock shows 20"):
            client.workers()


def test_a_server_without_tls_is_explained(double: FarmDouble) -> None:
    with Farm(f"https://127.0.0.1:{double.port}") as client, pytest.raises(FarmError, match="begins with http://"):
        client.workers()
