import errno
import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xmag import store
from xmag.errors import Code, PlaceError, RequestError
from xmag.heatmap import Overlay
from xmag.manifest import TilingSpec
from xmag.slide.grid import TileGrid
from xmag.units import Mpp, MppXY

KEY = "ab" * 32
MPP = MppXY(Mpp(0.5), Mpp(0.5))
ORIGIN = {"slide": "1" * 64, "encoder": "2" * 64}


def bag(tiles=5, dim=4) -> store.StoredBag:
    rng = np.random.default_rng(tiles)
    cells = np.stack([np.arange(tiles), np.arange(tiles) // 3], axis=1).astype(np.int32)
    tissue = rng.random(tiles, dtype=np.float32)
    grid = TileGrid(cells, tissue, (896.25, 870.5), 224, tiles + 1, tiles)
    return store.StoredBag(rng.standard_normal((tiles, dim)).astype(np.float32), grid, dict(ORIGIN))


def overlay(tiles=5) -> Overlay:
    rng = np.random.default_rng(3)
    attention = rng.random(tiles, dtype=np.float32)
    evidence = rng.standard_normal((tiles, 2)).astype(np.float32)
    return Overlay(
        bag(tiles).grid, 5000, 4000, {"nsclc": attention, "odx": attention[::-1]}, {"nsclc": evidence}
    )


def same_grid(a: TileGrid, b: TileGrid) -> bool:
    plain = (a.span, a.tile_px, a.columns, a.rows) == (b.span, b.tile_px, b.columns, b.rows)
    return plain and np.array_equal(a.cells, b.cells) and np.array_equal(a.tissue, b.tissue)


@pytest.mark.parametrize("tiles", [1, 5, 300])
def test_embeddings_come_back(tmp_path, tiles):
    store.put_embeddings(tmp_path, KEY, bag(tiles))
    found = store.get_embeddings(tmp_path, KEY)
    assert found is not None
    assert np.array_equal(found.embeddings, bag(tiles).embeddings)
    assert same_grid(found.grid, bag(tiles).grid)
    assert found.origin == ORIGIN


def test_origins_are_listed_without_reading_the_bags(tmp_path):
    keys = [f"{number:064x}" for number in (7, 3, 2**255)]
    for key in keys:
        store.put_embeddings(tmp_path, key, bag())
    for path in (tmp_path / "embeddings").rglob("*.safetensors"):
        os.truncate(path, path.stat().st_size - 50)
    (tmp_path / "embeddings" / "00" / f"{9:064x}.safetensors").write_bytes(b"\xff" * 100)
    assert list(store.stored_origins(tmp_path)) == [(key, ORIGIN) for key in sorted(keys)]


def test_no_store_holds_no_bags(tmp_path):
    assert list(store.stored_origins(tmp_path)) == []


def test_absent_embeddings(tmp_path):
    assert store.get_embeddings(tmp_path, KEY) is None


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_a_damaged_file_counts_as_absent(tmp_path_factory, data):
    folder = tmp_path_factory.getbasetemp() / "damaged"
    store.put_embeddings(folder, KEY, bag())
    (path,) = folder.rglob("*.safetensors")
    whole = path.read_bytes()
    place = data.draw(st.integers(0, len(whole) - 1))
    if data.draw(st.booleans()):
        broken = whole[:place]
    else:
        broken = whole[:place] + bytes([whole[place] ^ data.draw(st.integers(1, 255))]) + whole[place + 1 :]
    path.write_bytes(broken)
    found = store.get_embeddings(folder, KEY)
    if found is not None:  # a byte that holds no meaning, such as the header's padding
        assert np.array_equal(found.embeddings, bag().embeddings)
        assert same_grid(found.grid, bag().grid)
    store.put_embeddings(folder, KEY, bag())
    assert path.read_bytes() == whole


def test_every_flip_within_the_numbers_is_seen(tmp_path):
    store.put_embeddings(tmp_path, KEY, bag())
    (path,) = tmp_path.rglob("*.safetensors")
    whole = path.read_bytes()
    start = 8 + int.from_bytes(whole[:8], "little")
    for place in range(start, len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        assert store.get_embeddings(tmp_path, KEY) is None


def test_a_bag_under_another_key_counts_as_absent(tmp_path):
    store.put_embeddings(tmp_path, KEY, bag())
    (path,) = tmp_path.rglob("*.safetensors")
    other = "cd" * 32
    moved = tmp_path / "embeddings" / other[:2] / f"{other}.safetensors"
    moved.parent.mkdir()
    path.rename(moved)
    assert store.get_embeddings(tmp_path, other) is None


def test_the_key_depends_on_everything():
    base = ("1" * 64, "2" * 64, TilingSpec(), MPP, "fp32")
    others = [
        ("3" * 64, *base[1:]),
        (base[0], "3" * 64, *base[2:]),
        (*base[:2], TilingSpec(min_tissue=0.2), *base[3:]),
        (*base[:3], MppXY(Mpp(0.5), Mpp(0.51)), "fp32"),
        (*base[:4], "bf16"),
    ]
    keys = {store.embedding_key(*each) for each in [base, *others]}
    assert len(keys) == 6
    assert store.embedding_key(*base) == store.embedding_key(*base)


def test_overlays_come_back_and_are_named_by_their_bytes(tmp_path):
    sha = store.put_overlay(tmp_path, overlay())
    assert store.put_overlay(tmp_path, overlay()) == sha
    found = store.get_overlay(tmp_path, sha)
    assert (found.width, found.height) == (5000, 4000)
    assert same_grid(found.grid, overlay().grid)
    for task in ("nsclc", "odx"):
        assert np.array_equal(found.attention[task], overlay().attention[task])
    assert np.array_equal(found.evidence["nsclc"], overlay().evidence["nsclc"])


def test_a_missing_or_damaged_overlay_is_gone(tmp_path):
    sha = store.put_overlay(tmp_path, overlay())
    (path,) = tmp_path.rglob("*.safetensors")
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    for name in (sha, "0" * 64):
        with pytest.raises(RequestError) as caught:
            store.get_overlay(tmp_path, name)
        assert caught.value.code == Code.GONE


def test_names_cannot_leave_the_store(tmp_path):
    for name in ("../../etc/passwd", "", "G" * 64):
        with pytest.raises(RequestError):
            store.get_overlay(tmp_path, name)


def test_a_full_disk_keeps_the_old_file_and_no_temporary(tmp_path, monkeypatch):
    store.put_embeddings(tmp_path, KEY, bag())

    def full(fd):
        raise OSError(errno.ENOSPC, "no space")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(PlaceError) as caught:
        store.put_embeddings(tmp_path, KEY, bag(9))
    assert caught.value.code == Code.DISK_FULL
    assert len([path for path in tmp_path.rglob("*") if path.is_file()]) == 1
    found = store.get_embeddings(tmp_path, KEY)
    assert found is not None
    assert len(found.grid) == 5
