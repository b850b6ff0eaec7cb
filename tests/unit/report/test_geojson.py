import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xmag.errors import RequestError
from xmag.heatmap import Overlay
from xmag.report.geojson import attention_geojson
from xmag.slide.grid import TileGrid

LABELS = ("LUAD", "LUSC")


def overlay(columns, rows, span, width, height) -> Overlay:
    cells = np.array([(c, r) for r in range(rows) for c in range(columns)], np.int32)
    rng = np.random.default_rng(0)
    count = len(cells)
    grid = TileGrid(cells, rng.random(count, dtype=np.float32), span, 224, columns, rows)
    attention = rng.random(count, dtype=np.float32)
    evidence = rng.standard_normal((count, 2)).astype(np.float32)
    return Overlay(grid, width, height, {"nsclc": attention}, {"nsclc": evidence})


sides = st.tuples(st.integers(1, 6), st.floats(20, 500), st.floats(0.001, 1.0))


@settings(max_examples=60, deadline=None)
@given(sides, sides)
def test_tiles_are_closed_whole_within_the_slide_and_cover_it(x, y):
    (columns, span_x, part_x), (rows, span_y, part_y) = x, y
    width, height = (
        max(1, round((n - 1 + p) * s)) for n, s, p in ((columns, span_x, part_x), (rows, span_y, part_y))
    )
    found = attention_geojson(overlay(columns, rows, (span_x, span_y), width, height), "nsclc", LABELS)
    assert json.loads(json.dumps(found)) == found
    assert len(found["features"]) == columns * rows
    area = 0
    for feature in found["features"]:
        (ring,) = feature["geometry"]["coordinates"]
        assert len(ring) == 5
        assert ring[0] == ring[-1]
        (x0, y0), (x1, y1) = ring[0], ring[2]
        assert 0 <= x0 < x1 <= width
        assert 0 <= y0 < y1 <= height
        assert all(isinstance(value, int) for point in ring for value in point)
        area += (x1 - x0) * (y1 - y0)
    assert area >= width * height
    slivers = [part * span < 1 for part, span in ((part_x, span_x), (part_y, span_y))]  # kept 1 px wide
    assert area <= (width + slivers[0]) * (height + slivers[1])


def test_the_numbers_are_the_overlays():
    subject = overlay(3, 2, (100.0, 100.0), 300, 200)
    features = attention_geojson(subject, "nsclc", LABELS)["features"]
    attention = subject.attention["nsclc"]
    for i, feature in enumerate(features):
        properties = feature["properties"]
        values = {entry["name"]: entry["value"] for entry in properties["measurements"]}
        assert values["attention"] == attention[i]
        assert values["relative attention"] == pytest.approx(attention[i] / attention.max())
        assert values["tissue"] == subject.grid.tissue[i]
        assert [values["evidence LUAD"], values["evidence LUSC"]] == subject.evidence["nsclc"][i].tolist()
        assert properties["objectType"] == "detection"
    top = features[int(attention.argmax())]["properties"]["classification"]
    assert top["name"] == "attention 80-100 %"
    assert all(0 <= channel <= 255 for channel in top["color"])


def test_a_task_it_does_not_hold():
    with pytest.raises(RequestError):
        attention_geojson(overlay(1, 1, (10.0, 10.0), 10, 10), "rcc", LABELS)
