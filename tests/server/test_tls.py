"""TLS: what is checked before anybody connects, a real handshake, and a renewal without restart."""

import asyncio
import datetime
import ssl
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from localllm.errors import UsageError
from localllm.server.access.tls import CertificateFiles, RenewedContext, open_context
from localllm.server.listen import (
    Address,
    ConnectionLimits,
    StopSignals,
    bound_address,
    open_socket,
    serve,
)

DAY = datetime.timedelta(days=1)
Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


@dataclass(frozen=True, slots=True)
class Pair:
    """Files of one server; `write` replaces what is in them."""

    files: CertificateFiles

    def write(
        self,
        *,
        name: str = "one",
        begins: datetime.timedelta = -DAY,
        ends: datetime.timedelta = 365 * DAY,
        key: Key | None = None,
        password: bytes | None = None,
    ) -> None:
        key = key or ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        now = datetime.datetime.now(datetime.UTC)
        names = x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))])
        certificate = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now + begins)
            .not_valid_after(now + ends)
            .add_extension(names, critical=False)
            .sign(key, hashes.SHA256())
        )
        self.files.certificate.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        self.files.key.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.BestAvailableEncryption(password)
                if password
                else serialization.NoEncryption(),
            )
        )
        self.files.key.chmod(0o600)


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    made = Pair(CertificateFiles(certificate=tmp_path / "cert.pem", key=tmp_path / "key.pem"))
    made.write()
    return made


def refused(pair: Pair) -> str:
    with pytest.raises(UsageError) as raised:
        open_context(pair.files, lambda _: None)
    return str(raised.value)


def test_a_good_pair_is_taken_without_a_word(pair: Pair) -> None:
    warnings: list[str] = []
    context = open_context(pair.files, warnings.append)
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2
    assert warnings == []


def test_what_no_client_would_accept_is_refused_at_the_start(pair: Pair) -> None:
    pair.write(begins=-3 * DAY, ends=-DAY)
    assert "expired" in refused(pair)
    pair.write(begins=DAY)
    assert "not yet valid" in refused(pair)
    pair.write(password=b"secret")
    assert "encrypted" in refused(pair)
    pair.write()
    key = pair.files.key.read_bytes()
    pair.write()
    pair.files.key.write_bytes(key)
    assert "another certificate" in refused(pair)
    pair.files.key.write_text("nonsense")
    assert "no PEM file" in refused(pair)
    pair.files.key.write_text("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n")
    assert "cannot be used" in refused(pair)
    pair.files.key.unlink()
    assert "cannot be read" in refused(pair)


def test_what_should_not_stay_so_is_warned_of(pair: Pair) -> None:
    pair.write(ends=3 * DAY)
    pair.files.key.chmod(0o640)
    warnings: list[str] = []
    open_context(pair.files, warnings.append)
    assert "expires at" in warnings[0]
    assert "chmod 600" in warnings[1]


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    await Response(scope["scheme"])(scope, receive, send)


async def nothing() -> None:
    pass


async def get(address: Address, trusted: Path) -> tuple[bytes, str]:
    """Make a request over TLS; returns the end of the answer, and whose certificate was shown."""
    client = ssl.create_default_context(cafile=trusted)
    reader, writer = await asyncio.open_connection(address.ip, address.port, ssl=client)
    subject = writer.get_extra_info("peercert")["subject"]
    writer.write(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    answer = await reader.read()
    writer.close()
    return answer, subject[0][0][1]


async def test_requests_come_over_tls_and_a_renewed_certificate_is_shown(pair: Pair) -> None:
    pair.write(name="old", key=rsa.generate_private_key(65537, 2048))
    renewed = RenewedContext(pair.files, lambda _: None)
    sock = open_socket(Address(ip="127.0.0.1", port=0))
    address, stop = bound_address(sock, tls=True), StopSignals()
    assert address.url.startswith("https://127.0.0.1:")
    limits = ConnectionLimits(shutdown_grace_s=0.0)
    serving = asyncio.create_task(
        serve(app, (sock,), stop, abort_requests=nothing, limits=limits, tls=renewed.server)
    )
    answer, subject = await get(address, pair.files.certificate)
    assert (answer.endswith(b"\r\n\r\nhttps"), subject) == (True, "old")
    old = pair.files.certificate.read_bytes()

    assert not renewed.reload_changed()
    pair.files.certificate.write_bytes(old[:100])  # half written
    assert not renewed.reload_changed()
    pair.files.certificate.write_bytes(old)
    assert (await get(address, pair.files.certificate))[1] == "old"

    pair.write(name="new")  # another kind of key: both could lie in one context
    assert renewed.reload_changed()
    assert (await get(address, pair.files.certificate))[1] == "new"

    with pytest.raises(ConnectionError):
        reader, writer = await asyncio.open_connection(address.ip, address.port)
        writer.write(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        if not await reader.read():
            raise ConnectionResetError
    stop.should_exit.set()
    await serving
