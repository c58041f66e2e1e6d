"""TLS on the broker's port, with and without client certificates."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from packhorse_host.broker import BrokerTls, CredentialStore
from packhorse_host.errors import ConfigError
from tests.authority import Authority

if TYPE_CHECKING:
    from tests.host.broker.conftest import Site

    OpenSite = Callable[..., Site]


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
