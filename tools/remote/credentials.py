"""Certificates and tokens of a cluster: an authority of its own, and a pair for each role.

Both sides show a certificate, so that nobody else can even ask; the token says who asks, and the scheduler's access
list what that role may do (`buildgrid_config.access`).
"""

from __future__ import annotations

import datetime
import ipaddress
import secrets
import shlex
from collections.abc import Sequence
from pathlib import Path

import jwt
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

# Roles, which are the subjects of tokens.
WORKER, CLIENT = "worker", "client"
_DAYS = 365
_SKEW = datetime.timedelta(minutes=5)


def make(folder: Path, hosts: Sequence[str]) -> None:
    """Makes what is not there or is about to end: ca.pem, {server,worker,client}.{key,pem}, {worker,client}.token.

    Args:
      folder: where; for the user alone.
      hosts: names and addresses of the scheduler, besides those of this machine itself.
    """
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    if (folder / "client.token").exists() and not _ends_soon(folder / "server.pem", hosts):
        return
    authority_key = ec.generate_private_key(ec.SECP256R1())
    authority = _certificate("Trainyard cluster", authority_key.public_key(), None, authority_key)
    _write(folder / "ca.pem", authority.public_bytes(serialization.Encoding.PEM))
    for role in ("server", WORKER, CLIENT):
        key = ec.generate_private_key(ec.SECP256R1())
        names = _names(hosts) if role == "server" else None
        certificate = _certificate(role, key.public_key(), authority, authority_key, names)
        _write(folder / f"{role}.pem", certificate.public_bytes(serialization.Encoding.PEM))
        plain = serialization.NoEncryption()
        pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)
        _write(folder / f"{role}.key", pem)
    secret = secrets.token_hex(32)
    _write(folder / "token.secret", secret.encode())
    for role in (WORKER, CLIENT):
        _write(folder / f"{role}.token", token(secret, role).encode())
    _write(folder / "client.bazelrc", _rc(folder).encode())


def token(secret: str, role: str, valid: datetime.timedelta = datetime.timedelta(days=_DAYS)) -> str:
    """A signed token that says who asks (JSON Web Token, RFC 7519; HMAC with SHA-256)."""
    claims = {"sub": role, "exp": datetime.datetime.now(datetime.UTC) + valid}
    return jwt.encode(claims, secret, algorithm="HS256")


def worker_options(folder: Path, service: str) -> list[str]:
    """What a program of BuildBox is told, to show that it is a worker's.

    Args:
      folder: of the credentials.
      service: of the scheduler, "bots" or "cas".
    """
    names = ("server-cert", "client-cert", "client-key", "access-token")
    return [f"--{service}-{name}={folder / file}" for name, file in zip(names, files(WORKER), strict=True)]


def files(role: str) -> tuple[str, str, str, str]:
    """The names of what a role shows: the authority's certificate, its own, the key of that, its token."""
    return "ca.pem", f"{role}.pem", f"{role}.key", f"{role}.token"


def check(folder: Path, role: str) -> None:
    """Looks whether a role has all that it shows.

    Raises:
      ValueError: a file is missing, others than the user may read a secret one, or the token is of no use.
    """
    names = files(role)
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise ValueError(
            f"--credentials {folder}: {', '.join(missing)} not there; copy {', '.join(names)} from the `tls` folder of "
            "the scheduler's cluster"
        )
    for name in names[2:]:
        file = folder / name
        if file.stat().st_mode & 0o077:
            raise ValueError(f"others than you may read {file}: chmod 600 {shlex.quote(str(file))}")
    _check_token(folder / names[3], role)


def _check_token(file: Path, role: str) -> None:
    mend = f"copy {file.name} anew from the `tls` folder of the scheduler's cluster, after an `up` of that one"
    try:
        claims = jwt.decode(file.read_text(), options={"verify_signature": False, "verify_exp": True})
    except jwt.ExpiredSignatureError as error:
        raise ValueError(f"the token in {file} has expired: {mend}") from error
    except jwt.InvalidTokenError as error:
        raise ValueError(f"{file} holds no token ({error}): {mend}") from error
    if claims.get("sub") != role:
        raise ValueError(f"{file} holds the token of a {claims.get('sub')}, not of a {role}: {mend}")


def _rc(folder: Path) -> str:
    authority, certificate, key, token_file = (folder / name for name in files(CLIENT))
    header = f"--remote_header=authorization=Bearer {token_file.read_text()}"
    tls = [f"--tls_certificate={authority}", f"--tls_client_certificate={certificate}", f"--tls_client_key={key}"]
    # (a tunnel shows the certificate by itself)
    options = {"remote_tls": [*tls, header], "remote_tunnel": [header]}
    lines = [f"common:{config} {shlex.quote(value)}" for config, values in options.items() for value in values]
    return "# The credentials of a client of this cluster.\n" + "\n".join(lines) + "\n"


def _names(hosts: Sequence[str]) -> list[x509.GeneralName]:
    found: list[x509.GeneralName] = []
    for host in dict.fromkeys([*hosts, "localhost", "127.0.0.1"]):
        try:
            found.append(x509.IPAddress(ipaddress.ip_address(host)))
        except ValueError:
            found.append(x509.DNSName(host))
    return found


def _certificate(
    name: str,
    key: ec.EllipticCurvePublicKey,
    issuer: x509.Certificate | None,
    issuer_key: ec.EllipticCurvePrivateKey,
    names: list[x509.GeneralName] | None = None,
) -> x509.Certificate:
    """A certificate for a key; without an issuer that of an authority."""
    now = datetime.datetime.now(datetime.UTC)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.subject if issuer else subject)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _SKEW)
        .not_valid_after(now + datetime.timedelta(days=_DAYS))
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return builder.sign(issuer_key, hashes.SHA256())


def _ends_soon(file: Path, hosts: Sequence[str]) -> bool:
    """Whether a certificate is of no use for much longer, or not for these hosts."""
    try:
        certificate = x509.load_pem_x509_certificate(file.read_bytes())
        named = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (OSError, ValueError, x509.ExtensionNotFound):
        return True
    left = certificate.not_valid_after_utc - datetime.datetime.now(datetime.UTC)
    return left < datetime.timedelta(days=30) or not set(_names(hosts)) <= set(named)


def _write(file: Path, content: bytes) -> None:
    file.touch(mode=0o600)
    file.write_bytes(content)
