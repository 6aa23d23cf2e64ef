"""Who may connect: loopback for all on this machine, any other address with a token only."""

import base64
import binascii
import hmac
import ipaddress
import ssl
import string
from pathlib import Path
from urllib.parse import urlsplit

from diffpolicy.deploy.errors import DeployError

SHORTEST_TOKEN = 16  # characters
TOKEN_LETTERS = set(
    string.ascii_letters + string.digits + string.punctuation
)  # what a header carries unchanged


class AccessError(DeployError):
    """A server that everybody could reach, or a certificate that cannot be used."""


def is_loopback(host: str) -> bool:
    """Return whether only this machine reaches a server on `host`."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_exposure(host: str, allow_remote: bool, token: str | None) -> None:
    """Raise AccessError for an address that others reach without `allow_remote` and a token, and for a weak token."""
    if token is not None and (len(token) < SHORTEST_TOKEN or set(token) - TOKEN_LETTERS):
        raise AccessError(
            f"a token has at least {SHORTEST_TOKEN} printable ASCII characters and no spaces, this one does not"
        )
    if is_loopback(host):
        return
    if not allow_remote:
        raise AccessError(
            f"host={host} lets others connect: say allow_remote=true if that is meant, and set a token"
        )
    if token is None:
        raise AccessError(
            f"host={host} lets others connect: set a token (environment variable DIFFPOLICY_TOKEN)"
        )


def authorised(header: str | None, token: str) -> bool:
    """Return whether an Authorization header carries `token`, comparing in constant time.

    "Api-Key TOKEN" (openpi's client), "Bearer TOKEN" (Prometheus) and Basic with TOKEN for a password (browsers).
    """
    scheme, _, rest = (header or "").partition(" ")
    given = rest.strip().encode("utf-8", "surrogateescape")
    if scheme.lower() == "basic":
        try:
            given = base64.b64decode(given, validate=True).partition(b":")[2]
        except (binascii.Error, ValueError):
            given = b""
    elif scheme.lower() not in ("api-key", "bearer"):
        given = b""
    return hmac.compare_digest(given, token.encode())


def names_this_machine(header: str | None) -> bool:
    """Return whether a Host header names loopback.

    Without a token a web page that a browser on this machine shows could otherwise point its own name at 127.0.0.1 and
    read the robot's pictures (DNS rebinding).
    """
    try:
        host = urlsplit(f"//{header or ''}").hostname
    except ValueError:
        return False
    return host is not None and is_loopback(host)


def tls_context(certificate: str | None, key: str | None) -> ssl.SSLContext | None:
    """Return the context for a PEM certificate and its key, None without; AccessError if they cannot be used."""
    if certificate is None and key is None:
        return None
    if certificate is None or key is None:
        raise AccessError("TLS needs both tls_cert and tls_key")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    for option, path in (("tls_cert", certificate), ("tls_key", key)):
        if not Path(path).is_file():
            raise AccessError(f"{option}={path}: there is no such file")
    try:
        context.load_cert_chain(certificate, key, password="")  # a server has nobody to ask
    except (ssl.SSLError, OSError) as error:
        raise AccessError(f"tls_cert={certificate}, tls_key={key}: {error}") from error
    return context
