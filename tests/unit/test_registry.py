import errno
import hashlib
import os
import stat
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from xmag import registry
from xmag.errors import Code, PlaceError, ReleaseError
from xmag.manifest import AbmilSpec, HeadManifest, Licence, canonical, digest

WEIGHTS, SELF_TEST = b"weights" * 40, b"self-test" * 20
KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
TRUSTED = [registry.public_key_text(KEY)]
SIGNED_FILES = [registry.MANIFEST, registry.WEIGHTS, registry.SELF_TEST, registry.SIGNATURE]


def manifest(**changes):
    values = {
        "name": "demo-nsclc",
        "created": datetime(2026, 1, 1, tzinfo=UTC),
        "code_version": "0.1.0",
        "licence": Licence(name="demo", permitted_use="demo", notice="Größe: not for diagnosis"),
        "weights_sha256": hashlib.sha256(WEIGHTS).hexdigest(),
        "self_test_sha256": hashlib.sha256(SELF_TEST).hexdigest(),
        "task": "nsclc",
        "labels": ("LUAD", "LUSC"),
        "encoder": "0" * 64,
        "architecture": AbmilSpec(in_dim=8, classes=2),
    }
    return HeadManifest(**(values | changes))


def publish(folder: Path, **changes) -> str:
    return registry.publish(folder, manifest(**changes), WEIGHTS, SELF_TEST, "# card", KEY)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    folder = tmp_path_factory.mktemp("releases")
    return folder, publish(folder)


def test_what_is_published_is_read_back(published):
    folder, name = published
    assert name == digest(manifest())
    release = registry.read_verified(folder, name, TRUSTED)
    assert (release.digest, release.manifest) == (name, manifest())
    assert (release.weights, release.self_test) == (WEIGHTS, SELF_TEST)
    assert registry.read_manifest(folder, name) == manifest()
    assert registry.listing(folder) == [name]
    assert (folder / name / registry.MANIFEST).read_bytes() == canonical(manifest())


def test_files_are_readable_by_all_and_nothing_else_is_left(published):
    folder, name = published
    assert [entry.name for entry in folder.iterdir()] == [name]
    for path in (folder / name).iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o644


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_any_changed_byte_is_refused(published, data):
    folder, name = published
    path = folder / name / data.draw(st.sampled_from(SIGNED_FILES))
    whole = path.read_bytes()
    place = data.draw(st.integers(0, len(whole) - 1))
    flip = data.draw(st.integers(1, 255))
    path.write_bytes(whole[:place] + bytes([whole[place] ^ flip]) + whole[place + 1 :])
    try:
        with pytest.raises(ReleaseError) as caught:
            registry.read_verified(folder, name, TRUSTED)
        assert caught.value.code == Code.MODEL_INTEGRITY
    finally:
        path.write_bytes(whole)


@pytest.mark.parametrize("name", SIGNED_FILES)
@pytest.mark.parametrize("damage", ["missing", "empty", "longer"])
def test_a_missing_cut_or_grown_file_is_refused(tmp_path, name, damage):
    release = publish(tmp_path)
    path = tmp_path / release / name
    whole = path.read_bytes()
    path.unlink()
    if damage != "missing":
        path.write_bytes(b"" if damage == "empty" else whole + b" ")
    with pytest.raises(ReleaseError) as caught:
        registry.read_verified(tmp_path, release, TRUSTED)
    assert caught.value.code == Code.MODEL_INTEGRITY


def test_publishing_again_changes_nothing_and_mends_damage(tmp_path):
    name = publish(tmp_path)
    before = contents(tmp_path / name)
    inode = (tmp_path / name / registry.WEIGHTS).stat().st_ino
    assert publish(tmp_path) == name
    assert (tmp_path / name / registry.WEIGHTS).stat().st_ino == inode
    (tmp_path / name / registry.WEIGHTS).write_bytes(b"damaged")
    (tmp_path / name / registry.SIGNATURE).unlink()
    assert publish(tmp_path) == name
    assert contents(tmp_path / name) == before


@pytest.mark.parametrize("name", ["0" * 64, "..", "../etc", "A" * 64, ""])
def test_no_such_release(tmp_path, name):
    for read in (registry.read_manifest, lambda *a: registry.read_verified(*a, TRUSTED)):
        with pytest.raises(ReleaseError) as caught:
            read(tmp_path, name)
        assert caught.value.code == Code.MODEL_UNAVAILABLE


def test_only_trusted_keys_may_sign(published):
    folder, name = published
    other = registry.public_key_text(Ed25519PrivateKey.generate())
    for trusted, word in (([], "XMAG_TRUSTED_KEYS"), ([other], "not trusted")):
        with pytest.raises(ReleaseError, match=word) as caught:
            registry.read_verified(folder, name, trusted)
        assert caught.value.code == Code.MODEL_INTEGRITY
    assert registry.read_verified(folder, name, [other, *TRUSTED]).weights == WEIGHTS


def test_a_malformed_trusted_key_names_the_setting(published):
    with pytest.raises(PlaceError, match="XMAG_TRUSTED_KEYS"):
        registry.read_verified(*published, ["no key"])


def test_a_valid_release_under_another_name_is_refused(tmp_path):
    name = publish(tmp_path)
    (tmp_path / name).rename(tmp_path / ("1" * 64))
    with pytest.raises(ReleaseError) as caught:
        registry.read_verified(tmp_path, "1" * 64, TRUSTED)
    assert caught.value.code == Code.MODEL_INTEGRITY


def test_a_manifest_that_does_not_name_these_files_is_not_published(tmp_path):
    with pytest.raises(ReleaseError) as caught:
        publish(tmp_path, weights_sha256="0" * 64)
    assert caught.value.code == Code.MODEL_INTEGRITY
    assert registry.listing(tmp_path) == []


def test_a_full_disk_leaves_nothing_behind(tmp_path, monkeypatch):
    real, calls = os.fsync, []

    def full(fd):
        calls.append(fd)
        if len(calls) == 3:
            raise OSError(errno.ENOSPC, "no space")
        real(fd)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(PlaceError) as caught:
        publish(tmp_path)
    assert caught.value.code == Code.DISK_FULL
    assert list(tmp_path.iterdir()) == []


def test_signing_keys(tmp_path):
    path = tmp_path / "keys" / "release.pem"
    key = registry.new_key(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert registry.public_key_text(registry.load_key(path)) == registry.public_key_text(key)
    before = path.read_bytes()
    with pytest.raises(PlaceError):
        registry.new_key(path)
    assert path.read_bytes() == before


def test_a_key_half_written_leaves_no_file(tmp_path, monkeypatch):
    def full(fd):
        raise OSError(errno.ENOSPC, "no space")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(PlaceError) as caught:
            registry.new_key(tmp_path / "release.pem")
    assert caught.value.code == Code.DISK_FULL
    registry.new_key(tmp_path / "release.pem")


def test_unusable_signing_keys(tmp_path):
    with pytest.raises(PlaceError):
        registry.load_key(tmp_path / "absent.pem")
    (tmp_path / "bad.pem").write_text("no key")
    with pytest.raises(PlaceError):
        registry.load_key(tmp_path / "bad.pem")


def test_listing_of_an_absent_folder(tmp_path):
    assert registry.listing(tmp_path / "absent") == []
