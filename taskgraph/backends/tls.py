"""An authority that lives as long as one run, and the certificates that it signs: for its etcd and for its ranks.

The authority's own key is never written anywhere: once the certificates are made nobody can make another. Every file is
its user's alone.
"""

from __future__ import annotations

import datetime as dt
import ipaddress
import os
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_VALID_DAYS = 730
_SKEW_DAYS = 1
"""Clocks of hosts differ."""


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """The files of one run, in a private directory."""

    directory: Path

    @property
    def ca(self) -> Path:
        """The authority's certificate."""
        return self.directory / "ca.pem"

    @property
    def cert(self) -> Path:
        """The server's certificate."""
        return self.directory / "server.pem"

    @property
    def key(self) -> Path:
        """The server's key."""
        return self.directory / "server.key"

    @property
    def client_cert(self) -> Path:
        """The certificate of all clients of the run."""
        return self.directory / "client.pem"

    @property
    def client_key(self) -> Path:
        """The clients' key."""
        return self.directory / "client.key"

    @property
    def _addresses(self) -> Path:
        return self.directory / "addresses"

    def addresses(self) -> tuple[str, ...]:
        """Return the addresses that the server's certificate is for, those beyond loopback; empty without TLS."""
        try:
            return tuple(self._addresses.read_text(encoding="ascii").split())
        except OSError:
            return ()

    def make(self, addresses: Sequence[str]) -> None:
        """Make the authority and sign both certificates, the server's for loopback and these addresses."""
        self.directory.mkdir(mode=0o700, exist_ok=True)
        for path, content in zip(
            (self.ca, self.cert, self.key, self.client_cert, self.client_key),
            _sign(["127.0.0.1", *addresses]),
            strict=True,
        ):
            _write(path, content)
        _write(self._addresses, "\n".join(addresses).encode("ascii"))  # last: where it is, the others are

    def client(self) -> ssl.SSLContext:
        """Return what a client needs to trust the server and be trusted."""
        context = ssl.create_default_context(cafile=self.ca)
        context.verify_flags |= ssl.VERIFY_X509_STRICT  # of itself from Python 3.13 on
        context.load_cert_chain(self.client_cert, self.client_key)
        return context


def _write(path: Path, content: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    with open(descriptor, "wb") as file:
        file.write(content)


def _sign(addresses: Sequence[str]) -> tuple[bytes, bytes, bytes, bytes, bytes]:
    """Return as PEM: the authority's certificate, certificate and key of the server, and those of the clients."""
    from cryptography import x509  # only a job on several machines needs it, and it takes time to import
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    def named(name: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])

    def draft(subject: str, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
        now = dt.datetime.now(dt.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(named(subject))
            .issuer_name(named("taskgraph run"))
            .public_key(key.public_key())
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.public_key()), critical=False)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(days=_SKEW_DAYS))
            .not_valid_after(now + dt.timedelta(days=_VALID_DAYS))
        )

    def usage(*, signs_certificates: bool) -> x509.KeyUsage:
        return x509.KeyUsage(
            digital_signature=not signs_certificates,
            key_cert_sign=signs_certificates,
            crl_sign=signs_certificates,
            content_commitment=False,
            key_encipherment=False,
            data_encipherment=False,
            key_agreement=False,
            encipher_only=False,
            decipher_only=False,
        )

    def pem(certificate: x509.Certificate) -> bytes:
        return certificate.public_bytes(serialization.Encoding.PEM)

    def pair(subject: str, names: Sequence[str], *usages: x509.ObjectIdentifier) -> tuple[bytes, bytes]:
        key = ec.generate_private_key(ec.SECP256R1())
        builder = draft(subject, key).add_extension(x509.ExtendedKeyUsage(list(usages)), critical=False)
        builder = builder.add_extension(usage(signs_certificates=False), critical=True)
        if names:
            alternatives = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(name)) for name in names])
            builder = builder.add_extension(alternatives, critical=False)
        secret = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return pem(builder.sign(authority, hashes.SHA256())), secret

    authority = ec.generate_private_key(ec.SECP256R1())
    own = draft("taskgraph run", authority)
    own = own.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    own = own.add_extension(usage(signs_certificates=True), critical=True)
    # etcd asks itself too, with the server's certificate, so that one is good for a client as well.
    server = pair("etcd", addresses, ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH)
    client = pair("rank", (), ExtendedKeyUsageOID.CLIENT_AUTH)
    return (pem(own.sign(authority, hashes.SHA256())), *server, *client)
