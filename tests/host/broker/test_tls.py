"""TLS on the broker's port, with and without client certificates."""

from __future__ import annotations

import ipaddress
import ssl
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from packhorse_host.broker import BrokerTls, CredentialStore
from packhorse_host.errors import ConfigError

if TYPE_CHECKING:
    from tests.host.broker.conftest import Site

    OpenSite = Callable[..., Site]


class Authority:
    """Signs certificates into a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "authority")])
        self.file = folder / "authority.pem"
        self.file.write_bytes(self._sign(self._name, self._key, True).public_bytes(_PEM))

    def issue(self, name: str) -> tuple[Path, Path]:
        """A certificate and its key, as files."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        certificate_file, key_file = self._folder / f"{name}.pem", self._folder / f"{name}.key"
        certificate_file.write_bytes(self._sign(subject, key, False).public_bytes(_PEM))
        key_file.write_bytes(
            key.private_bytes(_PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        )
        return certificate_file, key_file

    def _sign(
        self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, is_authority: bool
    ) -> x509.Certificate:
        now = datetime.now(timezone.utc)
        alternative = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=1))
            .add_extension(alternative, critical=False)
            .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
            .sign(self._key, hashes.SHA256())
        )


_PEM = serialization.Encoding.PEM


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    """In a folder whose name a configuration must quote."""
    folder = tmp_path / "with space 'and' \"quotes\" äö"
    folder.mkdir()
    return Authority(folder)


def context(authority: Authority, identity: tuple[Path, Path] | None = None) -> ssl.SSLContext:
    made = ssl.create_default_context(cafile=str(authority.file))
    if identity:
        made.load_cert_chain(*identity)
    return made


def test_a_client_that_trusts_the_authority_gets_in_and_a_plain_one_does_not(
    open_site: OpenSite, credentials: CredentialStore, authority: Authority
) -> None:
    site = open_site(credentials, BrokerTls(*authority.issue("broker")))
    device = site.connected("d1", tls=context(authority))
    assert device.subscribe("ph/1/f/trust")
    stranger = site.client("d2", tls=ssl.create_default_context())
    with pytest.raises(ssl.SSLCertVerificationError):
        stranger.connect()
    plain = site.client("d2")
    plain.paho.connect(site.endpoint.host, site.endpoint.port)
    plain.paho.loop_start()
    plain.wait_for(lambda: plain.drops > 0)
    assert plain.connections == 0


def test_a_required_client_certificate_comes_on_top_of_the_password(
    open_site: OpenSite, credentials: CredentialStore, authority: Authority, tmp_path: Path
) -> None:
    certificate_file, key_file = authority.issue("broker")
    site = open_site(credentials, BrokerTls(certificate_file, key_file, authority.file, True))
    identity = authority.issue("d1")
    site.connected("d1", tls=context(authority, identity))
    wrong = site.client("d1", client_id="wrong", tls=context(authority, identity))
    wrong.paho.username_pw_set("d1", "wrong")
    assert not wrong.connect()
    (tmp_path / "other").mkdir()
    for unknown in (None, Authority(tmp_path / "other").issue("d1")):
        client = site.client("d1", client_id="unknown", tls=context(authority, unknown))
        try:
            client.paho.connect(site.endpoint.host, site.endpoint.port)
        except OSError:
            continue
        client.paho.loop_start()
        client.wait_for(lambda client=client: client.drops > 0)  # type: ignore[misc]
        assert client.connections == 0


def test_requiring_certificates_without_an_authority_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="ca_file"):
        BrokerTls(tmp_path / "a", tmp_path / "b", require_client_certificate=True)
