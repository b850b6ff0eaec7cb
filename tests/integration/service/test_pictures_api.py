"""Results, heatmaps, shapes and views of slides, over HTTP with real decoder processes."""

import io
import json
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import pytest
from PIL import Image

from tests.integration.service.conftest import House
from xmag.slide.synthetic.write import write_svs

Slide = tuple[str, str]


def paint(path: Path) -> None:
    """A coloured ramp, 896 by 448 px at 2.0 mpp: big enough for several Deep Zoom levels."""
    y, x = np.mgrid[:448, :896]
    write_svs(path, np.stack([x % 256, y % 256, (x + y) % 256], axis=-1).astype(np.uint8), 2.0, levels=(1, 4))


@pytest.fixture(scope="module")
def done(steady: House) -> Slide:
    """Job id and slide id of a finished job on a readable slide."""
    paint(steady.slides / "real.svs")
    answer = steady.submit(slide={"root": "slides", "path": "real.svs"}, tasks=["nsclc", "isup"])
    job = answer.json()
    assert str(steady.finish()) == job["id"]
    return job["id"], job["slide"]


def get(house: House, path: str, **headers: str) -> Any:
    return house.client.get(path, headers={**house.auth(), **headers})


def opened(answer: Any) -> Image.Image:
    assert answer.status_code == 200, answer.text
    return Image.open(io.BytesIO(answer.content))


def test_a_result_is_the_stored_document(steady: House, done: Slide) -> None:
    answer = get(steady, f"/v1/jobs/{done[0]}/result")
    assert answer.status_code == 200
    body = answer.json()
    assert {each["task"]: each["label"] for each in body["predictions"]} == {"nsclc": "LUAD", "isup": "0"}
    assert body["predictions"][0]["notice"] == "demo weights: not for diagnosis"
    assert body["tiles"] == 6


def test_before_the_end_there_is_no_result(house: House) -> None:
    job = house.submit().json()
    for path in ("result", "heatmap/nsclc.png", "attention/nsclc.geojson"):
        answer = get(house, f"/v1/jobs/{job['id']}/{path}")
        assert (answer.status_code, answer.json()["code"]) == (409, "CONFLICT")
        assert answer.headers["retry-after"]


def test_heatmaps_differ_by_class_and_ground_and_are_cached(steady: House, done: Slide) -> None:
    base = f"/v1/jobs/{done[0]}/heatmap/nsclc.png"
    queries = ["", "?class=LUAD", "?class=LUSC", "?overlay=true"]
    answers = [get(steady, base + query) for query in queries]
    assert len({answer.content for answer in answers}) == len(queries)
    assert len({answer.headers["etag"] for answer in answers}) == len(queries)
    assert {opened(answer).size for answer in answers} == {(1024, 512)}
    assert [opened(answer).mode for answer in answers] == ["RGBA", "RGBA", "RGBA", "RGB"]
    again = get(steady, base, **{"If-None-Match": answers[0].headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("heatmap/rcc.png", 404),
        ("heatmap/nsclc.png?class=ccRCC", 404),
        ("attention/odx.geojson", 404),
        ("heatmap/lung.png", 422),
    ],
)
def test_no_heatmap_of_what_was_not_asked(steady: House, done: Slide, path: str, status: int) -> None:
    assert get(steady, f"/v1/jobs/{done[0]}/{path}").status_code == status


def test_a_lost_overlay_is_gone_not_a_crash(house: House) -> None:
    job = house.submit().json()
    house.finish()
    for path in (house.settings.store_dir / "overlays").rglob("*.safetensors"):
        path.unlink()
    assert get(house, f"/v1/jobs/{job['id']}/heatmap/nsclc.png").status_code == 410


def test_attention_is_geojson_in_level_0_px(steady: House, done: Slide) -> None:
    answer = get(steady, f"/v1/jobs/{done[0]}/attention/isup.geojson")
    assert answer.headers["content-type"] == "application/geo+json"
    shapes = json.loads(answer.content)
    assert shapes["type"] == "FeatureCollection"
    assert len(shapes["features"]) == 6


def test_a_slide_is_viewed(steady: House, done: Slide) -> None:
    base = f"/v1/slides/{done[1]}"
    picture = get(steady, f"{base}/thumbnail?max_px=256")
    assert (picture.headers["content-type"], opened(picture).size) == ("image/jpeg", (256, 128))
    assert picture.headers["cache-control"].startswith("private")
    descriptor = get(steady, f"{base}/dzi/slide.dzi")
    assert 'Width="896"' in descriptor.text
    tile = get(steady, f"{base}/dzi/slide_files/10/0_0.jpeg")
    assert opened(tile).size == (255, 255)
    assert get(steady, f"{base}/dzi/slide_files/10/0_0.jpg").content == tile.content
    cached = get(steady, f"{base}/dzi/slide_files/10/0_0.jpeg", **{"If-None-Match": tile.headers["etag"]})
    assert cached.status_code == 304
    for outside in ("10/99_0", "30/0_0"):
        assert get(steady, f"{base}/dzi/slide_files/{outside}.jpeg").status_code == 404
    for wrong in ("99/0_0.jpeg", "10/-1_0.jpeg", "10/0_0.png", "a/0_0.jpeg"):
        assert get(steady, f"{base}/dzi/slide_files/{wrong}").status_code == 422
    for secret in ("label", "macro", "associated/label", "properties"):
        assert get(steady, f"{base}/{secret}").status_code == 404


def test_a_broken_slide_costs_its_own_request_only(steady: House, done: Slide) -> None:
    slides = {}
    for name, content in (("noise.svs", b"II*\0" + bytes(range(256)) * 40), ("text.svs", b"hello")):
        (steady.slides / name).write_bytes(content)
        slides[name] = steady.submit(slide={"root": "slides", "path": name}).json()["slide"]
    for slide in slides.values():
        answer = get(steady, f"/v1/slides/{slide}/thumbnail")
        assert answer.status_code == 422
        assert answer.json()["code"] in ("SLIDE_UNSUPPORTED", "SLIDE_CORRUPT", "DECODE_CRASH")
    assert get(steady, f"/v1/slides/{done[1]}/thumbnail").status_code == 200


def test_a_viewer_that_dies_is_replaced(steady: House, done: Slide) -> None:
    assert get(steady, f"/v1/slides/{done[1]}/thumbnail").status_code == 200
    decoder = steady.app.state.gateway.viewers._idle[0].decoder
    decoder._process.kill()
    assert get(steady, f"/v1/slides/{done[1]}/thumbnail?max_px=100").status_code == 200


def test_slides_that_changed_or_vanished(house: House) -> None:
    paint(house.slides / "b.svs")
    slide = house.submit(slide={"root": "slides", "path": "b.svs"}).json()["slide"]
    assert get(house, f"/v1/slides/{slide}/thumbnail").status_code == 200
    (house.slides / "b.svs").write_bytes(b"other bytes")
    changed = get(house, f"/v1/slides/{slide}/thumbnail?max_px=100")
    assert (changed.status_code, changed.json()["code"]) == (409, "SLIDE_CHANGED")
    (house.slides / "b.svs").unlink()
    gone = get(house, f"/v1/slides/{slide}/thumbnail?max_px=101")
    assert (gone.status_code, gone.json()["code"]) == (422, "SLIDE_NOT_FOUND")


def test_busy_viewers_are_waited_for_and_then_refused(
    steady: House, done: Slide, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.viewers.WAIT_SECONDS", 0.05)
    viewers = steady.app.state.gateway.viewers
    get(steady, f"/v1/slides/{done[1]}/thumbnail")
    viewers._turn.acquire_on_behalf_of_nowait("another request")
    answer = get(steady, f"/v1/slides/{done[1]}/thumbnail?max_px=99")
    viewers._turn.release_on_behalf_of("another request")
    assert (answer.status_code, answer.json()["code"]) == (503, "BUSY")
    assert answer.headers["retry-after"]
    assert get(steady, f"/v1/slides/{done[1]}/thumbnail?max_px=99").status_code == 200


def test_unknown_slides_are_404(steady: House) -> None:
    for path in ("", "/thumbnail", "/dzi/slide.dzi", "/dzi/slide_files/1/0_0.jpeg"):
        answer = get(steady, f"/v1/slides/{UUID(int=1)}{path}")
        assert (answer.status_code, answer.json()["code"]) == (404, "NOT_FOUND")
