"""What a server of this machine needs to be spoken to by HTTPS: an authority of its own, and a certificate by it."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from ipaddress import ip_address
from pathlib import Path


@dataclass(frozen=True)
class Certificate:
    """Files of a server's certificate.

    Attributes:
        authority: Whom whoever asks the server has to trust.
        chain: The server's certificate.
        key: Its key.
    """

    authority: Path
    chain: Path
    key: Path

    @property
    def environment(self) -> dict[str, str]:
        """What makes everything that asks servers trust the authority: Python's ssl, obstore, and requests."""
        return {"SSL_CERT_FILE": str(self.authority), "REQUESTS_CA_BUNDLE": str(self.authority)}

    @property
    def context(self) -> ssl.SSLContext:
        """What a server wraps its sockets in."""
        made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        made.load_cert_chain(self.chain, self.key)
        return made


def make(folder: Path) -> Certificate:
    """Makes an authority, and a certificate for 127.0.0.1, in a folder."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    now = datetime.now(timezone.utc)

    def signed(
        name: str, key: ec.EllipticCurvePrivateKey, by: str, own: ec.EllipticCurvePrivateKey
    ) -> x509.Certificate:
        ca = name == by

        def named(text: str) -> x509.Name:
            return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])

        made = (
            x509.CertificateBuilder()
            .subject_name(named(name))
            .issuer_name(named(by))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=7))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(own.public_key()), critical=False)
        )
        if ca:
            may = {**dict.fromkeys(KEY_USAGES, False), "key_cert_sign": True, "crl_sign": True}
            made = made.add_extension(x509.KeyUsage(**may), critical=True)
        else:
            names = [x509.IPAddress(ip_address("127.0.0.1")), x509.DNSName("localhost")]
            made = made.add_extension(x509.SubjectAlternativeName(names), critical=False)
        return made.sign(own, hashes.SHA256())

    authority, server = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    files = Certificate(folder / "authority.pem", folder / "server.pem", folder / "server.key")
    pem = serialization.Encoding.PEM
    files.authority.write_bytes(signed("tests", authority, "tests", authority).public_bytes(pem))
    files.chain.write_bytes(signed("127.0.0.1", server, "tests", authority).public_bytes(pem))
    kind, open_ = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    files.key.write_bytes(server.private_bytes(pem, kind, open_))
    return files


KEY_USAGES = (
    *("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement"),
    *("key_cert_sign", "crl_sign", "encipher_only", "decipher_only"),
)
