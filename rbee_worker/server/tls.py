"""TLS: the certificate that this worker shows, and a new one while it runs."""

from __future__ import annotations

import ssl

from rbee_worker.config import Settings
from rbee_worker.errors import UsageError

# OpenSSL's words for another key than the certificate's; the last two of one of another kind.
_ANOTHER_KEY = ("KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH", "NO_CERTIFICATE_ASSIGNED")


class Certificate:
    """context: what connections are made with. TLS 1.2 or newer.

    A context that is given a second certificate keeps the first one as well if their keys are of
    different kinds, and chooses between them for each client. So each pair has a context of its
    own, and a new connection moves to the latest one before its certificate is chosen.
    """

    def __init__(self, settings: Settings) -> None:
        """Raises UsageError if certificate or key cannot be used."""
        self._cert, self._key = settings.tls_cert, settings.tls_key
        self.context = self._latest = self._loaded()
        self.context.sni_callback = self._move

    def reload(self) -> None:
        """Read both files again; connections that are made from now on use them. Raises UsageError,
        and nothing has changed."""
        self._latest = self._loaded()

    def _move(self, tls: ssl.SSLObject, name: str | None, context: ssl.SSLContext) -> None:
        """Called for each new connection, whether or not its client names a server."""
        tls.context = self._latest

    def _loaded(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        try:
            context.load_cert_chain(self._cert, self._key, password=lambda: "")
        except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
            raise UsageError(
                f"--tls-cert {self._cert} with --tls-key {self._key}: {_reason(error)}.",
                fix="give a certificate chain in PEM and its key, without a passphrase.",
            ) from None
        return context


def _reason(error: OSError | ValueError) -> str:
    """In a few words."""
    if isinstance(error, ssl.SSLError):
        if error.reason in _ANOTHER_KEY:
            return "the key is not that of the certificate"
        return f"they cannot be read ({error.reason or 'no PEM'})"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return "they cannot be read"


def certificate(settings: Settings) -> Certificate | None:
    """The certificate of `settings`, if there is one. Raises UsageError."""
    if not settings.tls_cert and not settings.tls_key:
        return None
    if not settings.tls_cert or not settings.tls_key:
        given, missing = ("--tls-cert", "--tls-key")[:: 1 if settings.tls_cert else -1]
        raise UsageError(f"{given} is given without {missing}.", fix="give both, or neither.")
    return Certificate(settings)
