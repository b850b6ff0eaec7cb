"""Releases as files: signed, named by their digest, verified on the very bytes that are used.

<releases>/<digest>/
    manifest.json          canonical bytes; their SHA-256 is the digest
    model.safetensors      weights; SHA-256 in the manifest
    self_test.safetensors  stored input and expected output; SHA-256 in the manifest
    MODEL_CARD.md          for people; neither hashed nor signed, and never read by a program
    signature.json         ed25519 over the manifest's bytes
"""

import base64
import binascii
import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from pydantic import ValidationError

from xmag.errors import Code, PlaceError, ReleaseError
from xmag.files import write_atomic, write_folder, write_new
from xmag.manifest import EncoderManifest, HeadManifest, canonical, parse_manifest

MANIFEST = "manifest.json"
WEIGHTS = "model.safetensors"
SELF_TEST = "self_test.safetensors"
CARD = "MODEL_CARD.md"
SIGNATURE = "signature.json"
_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class ReleaseBytes:
    """A release whose signature and digests were checked on the bytes it holds."""

    digest: str
    manifest: EncoderManifest | HeadManifest
    weights: bytes
    self_test: bytes
    signer: str


def publish(
    releases_dir: Path,
    manifest: EncoderManifest | HeadManifest,
    weights: bytes,
    self_test: bytes,
    card: str,
    key: Ed25519PrivateKey,
) -> str:
    """Sign and write a release; returns its digest.

    Publishing again is harmless: it mends damaged files and renews the signature and the card. Raises
    ReleaseError MODEL_INTEGRITY when the manifest's hashes are not those of the files, PlaceError DISK_FULL.
    """
    _require_hash("weights", weights, manifest.weights_sha256)
    _require_hash("self-test", self_test, manifest.self_test_sha256)
    message = canonical(manifest)
    digest = hashlib.sha256(message).hexdigest()
    files = {
        MANIFEST: message,
        WEIGHTS: weights,
        SELF_TEST: self_test,
        CARD: card.encode(),
        SIGNATURE: _signature_file(key.public_key(), key.sign(message)),
    }
    try:
        write_folder(releases_dir / digest, files)
    except FileExistsError:
        _mend(releases_dir / digest, files)
    return digest


def read_manifest(releases_dir: Path, digest: str) -> EncoderManifest | HeadManifest:
    """The manifest, its digest checked (not its signature); raises MODEL_UNAVAILABLE and MODEL_INTEGRITY."""
    return _parse(_read_manifest_bytes(_folder(releases_dir, digest), digest))


def read_verified(releases_dir: Path, digest: str, trusted_keys: Sequence[str]) -> ReleaseBytes:
    """Read each file once and check the signature and every hash on these bytes.

    ``trusted_keys`` are base64 public keys. Raises ReleaseError MODEL_UNAVAILABLE (no such release) and
    MODEL_INTEGRITY (unsigned, signed by another, or any byte differs).
    """
    folder = _folder(releases_dir, digest)
    message = _read_manifest_bytes(folder, digest)
    signer = _check_signature(message, _read(folder, SIGNATURE), trusted_keys)
    manifest = _parse(message)
    weights, self_test = _read(folder, WEIGHTS), _read(folder, SELF_TEST)
    _require_hash("weights", weights, manifest.weights_sha256)
    _require_hash("self-test", self_test, manifest.self_test_sha256)
    return ReleaseBytes(digest, manifest, weights, self_test, signer)


def listing(releases_dir: Path) -> list[str]:
    """Digests of the release folders, sorted; an absent folder holds none."""
    if not releases_dir.is_dir():
        return []
    return sorted(entry.name for entry in releases_dir.iterdir() if _DIGEST.fullmatch(entry.name))


def new_key(path: Path) -> Ed25519PrivateKey:
    """Make a signing key: PEM, PKCS8, mode 0600. Raises PlaceError SETUP when the file exists."""
    key = Ed25519PrivateKey.generate()
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    try:
        write_new(path, pem, 0o600)
    except FileExistsError:
        raise PlaceError(
            Code.SETUP, "a signing key exists already: load it, or choose another file"
        ) from None
    return key


def load_key(path: Path) -> Ed25519PrivateKey:
    """Read a signing key; raises PlaceError SETUP."""
    try:
        key = load_pem_private_key(path.read_bytes(), password=None)
    except FileNotFoundError:
        raise PlaceError(Code.SETUP, "no signing key there: make one first") from None
    except (ValueError, TypeError):
        raise PlaceError(Code.SETUP, "the signing key is not an unencrypted PEM private key") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise PlaceError(Code.SETUP, "the signing key must be an ed25519 key")
    return key


def public_key_text(key: Ed25519PrivateKey) -> str:
    """The public half as base64, the form of the setting ``trusted_keys``."""
    return base64.b64encode(_raw(key.public_key())).decode()


def _folder(releases_dir: Path, digest: str) -> Path:
    folder = releases_dir / digest
    if not _DIGEST.fullmatch(digest) or not folder.is_dir():
        raise ReleaseError(
            Code.MODEL_UNAVAILABLE,
            f"no release {digest[:12]!r} on this machine: publish it here, or copy its folder",
        )
    return folder


def _read(folder: Path, name: str) -> bytes:
    try:
        return (folder / name).read_bytes()
    except FileNotFoundError:
        raise _integrity(f"the release has no {name}") from None
    except PermissionError:
        raise ReleaseError(
            Code.MODEL_UNAVAILABLE, f"the service may not read the release's {name}: check its permissions"
        ) from None


def _read_manifest_bytes(folder: Path, digest: str) -> bytes:
    message = _read(folder, MANIFEST)
    _require_hash("manifest", message, digest)
    return message


def _parse(message: bytes) -> EncoderManifest | HeadManifest:
    try:
        return parse_manifest(message)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise _integrity(f"this version cannot read the manifest's {where}: {first['msg']}") from None


def _check_signature(message: bytes, file: bytes, trusted_keys: Sequence[str]) -> str:
    """Returns the key id of the trusted signer."""
    if not trusted_keys:
        raise _integrity(
            "no key is trusted to sign releases: set XMAG_TRUSTED_KEYS to the publisher's public key"
        )
    trusted = {_key_id(key): key for key in map(_public_key, trusted_keys)}
    key_id, signature = _parse_signature(file)
    if key_id not in trusted:
        raise _integrity("the release is signed by a key that is not trusted here: see XMAG_TRUSTED_KEYS")
    try:
        trusted[key_id].verify(signature, message)
    except InvalidSignature:
        raise _integrity("the signature does not fit the manifest") from None
    if file != _signature_file(trusted[key_id], signature):
        raise _integrity("the signature file was changed after signing")
    return key_id


def _parse_signature(file: bytes) -> tuple[str, bytes]:
    try:
        fields = json.loads(file)
        return str(fields["key_id"]), base64.b64decode(fields["signature"], validate=True)
    except (ValueError, KeyError, TypeError, binascii.Error):
        raise _integrity("the signature file is not readable") from None


def _signature_file(key: Ed25519PublicKey, signature: bytes) -> bytes:
    fields = {
        "algorithm": "ed25519",
        "key_id": _key_id(key),
        "signature": base64.b64encode(signature).decode(),
    }
    return json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()


def _public_key(text: str) -> Ed25519PublicKey:
    try:
        return Ed25519PublicKey.from_public_bytes(base64.b64decode(text, validate=True))
    except ValueError:
        raise PlaceError(
            Code.SETUP, "setting XMAG_TRUSTED_KEYS: each entry must be a base64 ed25519 public key"
        ) from None


def _key_id(key: Ed25519PublicKey) -> str:
    return hashlib.sha256(_raw(key)).hexdigest()[:16]


def _raw(key: Ed25519PublicKey) -> bytes:
    return key.public_bytes(Encoding.Raw, PublicFormat.Raw)


def _require_hash(what: str, data: bytes, expected: str) -> None:
    if hashlib.sha256(data).hexdigest() != expected:
        raise _integrity(f"the {what} is not what the digest says: publish or copy the release again")


def _mend(folder: Path, files: dict[str, bytes]) -> None:
    """Replace what differs, file by file: the digest fixes the content, so no mixture can pass as whole."""
    for name, data in files.items():
        path = folder / name
        if not path.is_file() or path.read_bytes() != data:
            write_atomic(path, data)


def _integrity(detail: str) -> ReleaseError:
    return ReleaseError(Code.MODEL_INTEGRITY, detail)
