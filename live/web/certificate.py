"""A certificate for https that this machine makes for itself."""

from __future__ import annotations

import ipaddress
import os
import socket
from contextlib import suppress
from datetime import datetime, timedelta, timezone
from pathlib import Path

from util.cli import writing
from util.image_io import write_bytes
from util.locks import only_one
from util.part_files import begin_part

DAYS = 365  # browsers refuse server certificates of more than 398 days
RENEW_DAYS = 30


def self_made(folder: Path, host: str) -> tuple[Path, Path]:
    """Certificate and key (PEM) in a folder, made when they are missing, about to end, or of another host.

    The key's file is readable by its owner alone. Raises: UserError when the files cannot be written.
    """
    certificate, key = folder / "page_certificate.pem", folder / "page_key.pem"
    names = _names(host)
    with writing(certificate):
        folder.mkdir(parents=True, exist_ok=True)
        with only_one(folder / "page_certificate.lock"):
            if not (key.is_file() and _still_fits(certificate, names)):
                _make(certificate, key, names)
    return certificate, key


def _names(host: str) -> list[str]:
    """All that a browser may call this machine."""
    own = socket.gethostname()
    found = ["localhost", "127.0.0.1", "::1", own, f"{own}.local"]
    if host not in ("0.0.0.0", "::", ""):
        found.append(host)
    else:
        with suppress(OSError):  # the machine's own name is not known
            found += sorted({str(entry[4][0]).partition("%")[0] for entry in socket.getaddrinfo(own, None)})
        with suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as outwards:
            outwards.connect(("192.0.2.1", 9))  # sends nothing, but tells which of our addresses others see
            found.append(outwards.getsockname()[0])
    return list(dict.fromkeys(found))


def _still_fits(path: Path, names: list[str]) -> bool:
    from cryptography import x509

    try:
        found = x509.load_pem_x509_certificate(path.read_bytes())
        alternatives = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (OSError, ValueError, x509.ExtensionNotFound):
        return False
    known = {*alternatives.get_values_for_type(x509.DNSName), *map(str, alternatives.get_values_for_type(x509.IPAddress))}
    return found.not_valid_after_utc > datetime.now(timezone.utc) + timedelta(days=RENEW_DAYS) and known == set(names)


def _make(certificate: Path, key: Path, names: list[str]) -> None:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    secret = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Head2Head on this machine")])
    now = datetime.now(timezone.utc)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(secret.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=DAYS))
        .add_extension(x509.SubjectAlternativeName([_general_name(name) for name in names]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(secret, hashes.SHA256())
    )
    pem = secret.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    part = begin_part(key)
    with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:  # never readable by others
        file.write(pem)
    part.replace(key)
    write_bytes(certificate, made.public_bytes(serialization.Encoding.PEM))


def _general_name(name: str):
    from cryptography import x509

    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name.encode("idna").decode() or "localhost")
