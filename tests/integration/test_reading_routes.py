"""Tiles read from the file's own streams and by OpenSlide: one grid, nearly one bag, and true provenance."""

# ruff: noqa: F401, F811 - fixtures are imported

import pytest

from tests.integration.test_analyze import (
    engine,
    fresh,
    ignore,
    put_encoder,
    put_head,
    request,
    settings,
)
from xmag.analyze import analyze
from xmag.manifest import VitSpec
from xmag.nn.agreement import min_cosine
from xmag.slide.synthetic.recipe import Recipe
from xmag.slide.synthetic.render import render
from xmag.slide.synthetic.write import write_svs
from xmag.store import get_embeddings

DEEP = VitSpec(patch_size=14, embed_dim=192, depth=6, num_heads=3, init_values=1.0)


@pytest.mark.parametrize(("mpp", "scale"), [(2.0, 1), (1.0, 2), (0.5, 4)])
def test_embeddings_of_both_routes_agree(settings, engine, fresh, tmp_path, mpp, scale):
    drawn = render(Recipe("nsclc", "LUAD", 3, width_um=1400.0, height_um=1000.0, mpp=mpp)).rgb
    write_svs(tmp_path / "a.svs", drawn, mpp, levels=(1,))
    encoder = put_encoder(settings, DEEP)
    asked = request(tmp_path, "a.svs", {"nsclc": put_head(settings, encoder, "nsclc", in_dim=192)})
    bags, readings = [], []
    for route in ("auto", "openslide"):
        decode = fresh.decode.model_copy(update={"route": route})
        found = analyze(asked, engine, fresh.model_copy(update={"decode": decode}), ignore)
        assert not found.provenance["encoders"][0]["embeddings_reused"]
        readings.append(found.provenance["encoders"][0]["reading"])
        bags.append(get_embeddings(fresh.store_dir, found.embeddings[encoder]))
    ways = [(each["route"], each["level"], each["scale"], each["left_to_openslide"]) for each in readings]
    assert ways == [("jpeg-tiles", 0, scale, 0), ("openslide", 0, 1, 0)]
    assert (bags[0].grid.cells == bags[1].grid.cells).all()
    assert min_cosine(bags[0].embeddings, bags[1].embeddings) >= 0.999
