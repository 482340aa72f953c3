"""The certificate that seals what is written: the user's own, or one that is made on this computer when it is first needed."""

from __future__ import annotations

import datetime
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from util.cli import UserError, warn_once, writing
from util.image_io import replacing, write_bytes
from util.locks import only_one
from util.user_cache import user_cache

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec

CERTIFICATE, KEY = "HEAD2HEAD_CERTIFICATE", "HEAD2HEAD_KEY"  # environment variables: the user's own, PEM files
NAMES = f"--certificate and --key, or {CERTIFICATE} and {KEY} in the environment,"  # whatever of them named a file
ORGANISATION = "Head2Head user"  # C2PA demands one; no name that nobody gave
_VALID_DAYS = 20 * 365  # no time stamp says when a file was sealed, so an expired certificate would spoil old videos
_C2PA_SIGNING = "1.3.6.1.4.1.62558.2.1"  # extended key usage "C2PA claim signing" (C2PA 2.x, Trust Model)
_REMEDY = "give a PEM certificate for signing, followed by those that signed it, and its PEM private key"


@dataclass(frozen=True)
class Identity:
    """What signs: a certificate with those that signed it, and its key."""

    chain: bytes  # PEM: the signing certificate first, the root last
    key: bytes  # PEM, PKCS #8, not encrypted
    algorithm: str  # as C2PA calls it: "es256", "ps256", ...


def own_root() -> Path:
    """The root certificate made on this computer (PEM, public): whoever trusts it knows what was sealed here."""
    return user_cache("credentials") / "root.pem"


def signing_identity() -> Identity:
    """The user's certificate where the environment names one, else this computer's, made if missing.

    Raises: UserError when the files are of no use.
    """
    certificate, key = os.environ.get(CERTIFICATE), os.environ.get(KEY)
    if certificate or key:
        if not (certificate and key):
            raise UserError(f"only one of {CERTIFICATE} and {KEY} is set; set both, or none for a certificate that is made here")
        return _identity(_read(Path(certificate)), _read(Path(key)), f"{certificate} with {key}", _REMEDY)
    path = own_root().with_name("identity.pem")
    try:
        pem = path.read_bytes() if path.is_file() else _make_once(path)
    except (UserError, OSError) as e:  # a read-only home, or another user's: nobody's work shall be lost by that
        why = str(e).partition(";")[0]
        warn_once(f"{why}: what is written now is sealed by a certificate of this run alone; set HEAD2HEAD_CACHE to a folder of yours")
        pem = b"".join(_make())
    return _identity(pem, pem, str(path), "delete it, and a new certificate is made")


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as e:
        raise UserError(f"cannot read {path} ({e.strerror}), which {NAMES} name; {_REMEDY}") from None


def _identity(chain: bytes, key: bytes, what: str, remedy: str) -> Identity:
    """Check that key and certificate belong together. Raises: UserError."""
    from cryptography import x509
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key

    try:
        private, certificates = load_pem_private_key(key, None), x509.load_pem_x509_certificates(chain)
        if certificates[0].public_key() != private.public_key():
            raise ValueError("the key is another certificate's")
        pem = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        return Identity(b"".join(c.public_bytes(Encoding.PEM) for c in certificates), pem, _algorithm(private))
    except TypeError:
        raise UserError(f"the key in {what} is encrypted; give it without a passphrase, readable by you alone") from None
    except (ValueError, UnsupportedAlgorithm) as e:
        raise UserError(f"{what} cannot sign ({str(e).splitlines()[0].rstrip('.')}); {remedy}") from None


def _algorithm(key: object) -> str:
    """C2PA's name of the signature that a private key makes. Raises: ValueError for other kinds of keys."""
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

    if isinstance(key, ec.EllipticCurvePrivateKey) and key.curve.name in (curves := {"secp256r1": "es256", "secp384r1": "es384"}):
        return curves[key.curve.name]
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return "ed25519"
    if isinstance(key, rsa.RSAPrivateKey):
        return "ps256"
    raise ValueError("the key is none of P-256, P-384, Ed25519 and RSA")


# ---- this computer's own ----


def _make_once(path: Path) -> bytes:
    """Make the certificate unless another process has. Key and certificates are one file: they are never of two makings."""
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with only_one(path.with_name(".lock")):
            if not path.is_file():
                key, leaf, root = _make()
                write_bytes(own_root(), root)
                with replacing(path) as part:
                    part.touch(0o600)  # before there is anything to read
                    part.write_bytes(key + leaf + root)
            return path.read_bytes()


def _make() -> tuple[bytes, bytes, bytes]:
    """A key, its certificate, and the root that signed it: PEM. The root's key is forgotten, so that it vouches for nothing else."""
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
    from cryptography.x509.oid import ExtendedKeyUsageOID, ObjectIdentifier

    root_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    number = f"{x509.random_serial_number() & 0xFFFFFFFF:08x}"  # tells the computers of one user apart
    issuer = _name(f"Head2Head root {number}")
    usages = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION, ObjectIdentifier(_C2PA_SIGNING)])
    root = _certificate(issuer, root_key, issuer, root_key, x509.BasicConstraints(True, 0), _usage(key_cert_sign=True, crl_sign=True))
    leaf = _certificate(
        _name(f"Head2Head {number}"), key, issuer, root_key, x509.BasicConstraints(False, None), _usage(digital_signature=True), usages
    )
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return pem, leaf.public_bytes(Encoding.PEM), root.public_bytes(Encoding.PEM)


def _name(common_name: str) -> x509.Name:
    from cryptography import x509
    from cryptography.x509.oid import NameOID

    return x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, ORGANISATION), x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _usage(**allowed: bool) -> x509.KeyUsage:
    from cryptography import x509

    names = ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "key_cert_sign")
    return x509.KeyUsage(**{**dict.fromkeys((*names, "crl_sign", "encipher_only", "decipher_only"), False), **allowed})


def _certificate(
    subject: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    issuer: x509.Name,
    issuer_key: ec.EllipticCurvePrivateKey,
    constraints: x509.BasicConstraints,
    usage: x509.KeyUsage,
    *usages: x509.ExtendedKeyUsage,
) -> x509.Certificate:
    """An X.509 certificate as C2PA demands it (RFC 5280): critical basic constraints and key usage, both key identifiers."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes

    now = datetime.datetime.now(datetime.timezone.utc)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))  # for clocks that differ
        .not_valid_after(now + datetime.timedelta(days=_VALID_DAYS))
        .add_extension(constraints, critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
    )
    for extended in usages:
        builder = builder.add_extension(extended, critical=False)
    return builder.sign(issuer_key, hashes.SHA256())
