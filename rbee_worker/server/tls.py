"""TLS: the certificate that this worker shows, and a new one while it runs."""

from __future__ import annotations

import ssl

from rbee_worker.config import Settings
from rbee_worker.errors import UsageError


class Certificate:
    """context: what connections are made with. TLS 1.2 or newer."""

    def __init__(self, settings: Settings) -> None:
        """Raises UsageError if certificate or key cannot be used."""
        self._cert, self._key = settings.tls_cert, settings.tls_key
        self.context = self._loaded()

    def reload(self) -> None:
        """Read both files again; connections that are made from now on use them. Raises UsageError,
        and nothing has changed."""
        self._loaded()  # elsewhere first: half of a pair must not be used
        self.context.load_cert_chain(self._cert, self._key)

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
        if error.reason == "KEY_VALUES_MISMATCH":
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
