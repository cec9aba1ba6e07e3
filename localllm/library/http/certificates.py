"""The certificates that are trusted, and what is said of one that is not.

Companies put a proxy of their own into encrypted connections and hand out its certificate in many
ways: in the system's store, in the variables of OpenSSL, of Python's requests and of curl, or in a
file for our settings. All of them are obeyed.
"""

import os
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import httpx2

from localllm.core.text import single_line
from localllm.errors import UsageError
from localllm.library.files import paths

_BUNDLES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
"""What requests and curl read; the first that is set counts, as in requests."""

# X509_V_ERR_* in OpenSSL's x509_vfy.h.
_NOT_YET_VALID, _EXPIRED, _OTHER_NAME, _OTHER_ADDRESS = 9, 10, 62, 64


def ssl_context(
    ca_file: Path | None, environment: Mapping[str, str] = os.environ
) -> ssl.SSLContext:
    """Trust the system's certificates (those of SSL_CERT_FILE instead, when it is set), and beside
    them those of REQUESTS_CA_BUNDLE or CURL_CA_BUNDLE and `ca_file`.

    Raises UsageError, which names the variable or the setting, for what cannot be read.
    """
    with _named_if_unusable("SSL_CERT_FILE or SSL_CERT_DIR"):
        context = httpx2.create_ssl_context()
    for origin, path in _named(ca_file, environment):
        with _named_if_unusable(origin):
            if path.is_dir():
                context.load_verify_locations(capath=path)
            else:
                context.load_verify_locations(cafile=path)
    return context


@contextmanager
def _named_if_unusable(origin: str) -> Iterator[None]:
    """Turn an error of reading certificates into one that names where they were named."""
    try:
        yield
    except (OSError, ValueError) as error:
        reason = "there is no certificate in it"
        if isinstance(error, OSError) and not isinstance(error, ssl.SSLError):
            reason = error.strerror or reason
        raise UsageError(
            f"{origin} cannot be used: {reason}. Name a file in PEM format."
        ) from error


def _named(ca_file: Path | None, environment: Mapping[str, str]) -> Iterator[tuple[str, Path]]:
    """Yield what names certificates that are trusted beside the system's, and their place."""
    bundles = ((each, environment.get(each, "").strip()) for each in _BUNDLES)
    if bundle := next((each for each in bundles if each[1]), None):
        path = paths.absolute(Path(bundle[1]))
        yield f"{bundle[0]} ({single_line(str(path))})", path
    if ca_file is not None:
        settings = single_line(str(paths.settings_file()))
        yield f"[hub] ca_cert ({single_line(str(ca_file))}) of {settings}", ca_file


def certificate_problem(error: BaseException) -> str | None:
    """Describe a certificate that was refused, and where to name one; None for other errors."""
    found = _verification_error(error)
    if found is None and "CERTIFICATE_VERIFY" not in str(error):
        return None
    code = getattr(found, "verify_code", None)
    stated = single_line(str(getattr(found, "verify_message", "") or ""))[:120]
    because = f" ({stated})" if stated else ""
    if code in (_EXPIRED, _NOT_YET_VALID):
        return f"its certificate is not valid now{because}; look at the clock of this machine"
    if code in (_OTHER_NAME, _OTHER_ADDRESS):
        return (
            f"its certificate is another host's{because}; a network that wants a login does so, or"
            " the address is wrong"
        )
    return (
        f"its certificate is not trusted here{because}; behind a proxy that looks into connections,"
        f" name the proxy's certificate (a PEM file) as [hub] ca_cert in"
        f" {single_line(str(paths.settings_file()))}, or in SSL_CERT_FILE or REQUESTS_CA_BUNDLE"
    )


def _verification_error(error: BaseException) -> ssl.SSLCertVerificationError | None:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return cause
        cause = cause.__cause__ or cause.__context__
    return None
