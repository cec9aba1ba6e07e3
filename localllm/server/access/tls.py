"""TLS of the local API: certificate and key checked before anybody connects, reloaded when renewed.

OpenSSL itself says what is wrong with them: a handshake in memory, with a client that trusts this
certificate alone, finds one that has expired, or that no client would take for a server's.
"""

import asyncio
import logging
import os
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from localllm.errors import UsageError

logger = logging.getLogger("localllm.server")

LOOK_EVERY_S = 10.0
WARN_BEFORE_S = 14 * 86_400.0
_HANDSHAKE_STEPS = 10
"""A handshake of TLS 1.3 takes three."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificateFiles:
    """A certificate with its chain, and its key, as PEM files."""

    certificate: Path
    key: Path

    def signature(self) -> tuple[tuple[int, int, int] | None, ...]:
        """Return what changes when one of the files does; None for one that is not there."""
        return tuple(_signature(each) for each in (self.certificate, self.key))


def _signature(path: Path) -> tuple[int, int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ino, status.st_size


def open_context(files: CertificateFiles, warn: Callable[[str], None]) -> ssl.SSLContext:
    """Make the context of a server, TLS 1.2 and newer. `warn` gets a sentence about what works but
    should not stay so. Raises UsageError for files that no client could use."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    _load(context, files)
    expires = _checked_expiry(context, files)
    if expires - time.time() < WARN_BEFORE_S:
        when = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(expires))
        warn(f"The certificate {files.certificate} expires at {when}.")
    if os.name == "posix" and (mode := files.key.stat().st_mode) & 0o077:
        warn(
            f"Others on this machine can read or change the TLS key {files.key} "
            f"(mode {mode & 0o777:04o}). Try: chmod 600 {files.key}"
        )
    return context


def _load(context: ssl.SSLContext, files: CertificateFiles) -> None:
    for path, what in ((files.certificate, "certificate"), (files.key, "key")):
        try:
            with path.open("rb") as file:
                pem = file.read(2**20)
        except OSError as error:
            raise UsageError(
                f"The TLS {what} {path} cannot be read: {error.strerror or error}."
            ) from error
        if b"-----BEGIN " not in pem:
            raise UsageError(f"The TLS {what} {path} is no PEM file (-----BEGIN ...).")
    try:
        context.load_cert_chain(files.certificate, files.key, password=_no_password)
    except _EncryptedKey:
        raise UsageError(
            f"The TLS key {files.key} is encrypted, and a server has nobody to type its password. "
            f"Try: openssl pkey -in {files.key} -out plain.pem, and chmod 600 plain.pem"
        ) from None
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            reason = f"the key {files.key} belongs to another certificate"
        else:
            reason = f"OpenSSL cannot read them ({error.reason or 'not PEM'})"
        raise UsageError(
            f"The certificate {files.certificate} cannot be used: {reason}."
        ) from error


class _EncryptedKey(Exception):
    """OpenSSL has asked for a password."""


def _no_password() -> str:
    raise _EncryptedKey


def _checked_expiry(context: ssl.SSLContext, files: CertificateFiles) -> float:
    """Return when the certificate expires (seconds since 1970). Raises UsageError when a client
    that trusts it would refuse it."""
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # it need not be a root
    client.load_verify_locations(files.certificate)
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours = context.wrap_bio(to_server, to_client, server_side=True)
    theirs = client.wrap_bio(to_client, to_server)
    try:
        for _ in range(_HANDSHAKE_STEPS):
            done = True
            for side in (theirs, ours):
                try:
                    side.do_handshake()
                except ssl.SSLWantReadError:
                    done = False
            if done:
                break
    except ssl.SSLCertVerificationError as error:
        raise UsageError(
            f"No client would accept the certificate {files.certificate}: {error.verify_message}."
        ) from error
    except ssl.SSLError as error:
        raise UsageError(
            f"The certificate {files.certificate} cannot be used for TLS: {error.reason}."
        ) from error
    certificate = theirs.getpeercert() or {}
    return ssl.cert_time_to_seconds(str(certificate["notAfter"]))


class RenewedContext:
    """The context of a running server, whose certificate is replaced when its files have changed.

    `server` is the context to listen with. Each handshake gets the newest one from it: loading new
    files into `server` itself would leave an old certificate of another kind of key beside them.
    Files that cannot be used (half written, of another key) change nothing, and are reported once.
    """

    def __init__(self, files: CertificateFiles, warn: Callable[[str], None]) -> None:
        """Raises UsageError for files that no client could use."""
        self._files = files
        self._seen = files.signature()
        self._newest = self.server = open_context(files, warn)
        self.server.sni_callback = self._choose

    @property
    def certificate(self) -> Path:
        """The file of the certificate and its chain."""
        return self._files.certificate

    def _choose(self, connection: ssl.SSLObject, name: str | None, context: ssl.SSLContext) -> None:
        connection.context = self._newest

    def reload_changed(self) -> bool:
        """Load the files again if they have changed. Returns True when that was done."""
        if (signature := self._files.signature()) == self._seen:
            return False
        self._seen = signature
        try:
            self._newest = open_context(self._files, logger.warning)
        except (UsageError, OSError) as error:
            logger.warning("The old certificate stays: %s", error)
            return False
        return True

    async def keep_fresh(self, every_s: float = LOOK_EVERY_S) -> None:
        """Look at the files now and then, until cancelled."""
        while True:
            await asyncio.sleep(every_s)
            await asyncio.to_thread(self.reload_changed)
