"""Costs, spread and agreement."""

import subprocess
import sys

import numpy as np
import pytest

from benchmarks.measure import (
    below,
    least_cosine,
    paired,
    peak_bytes,
    pixels_agree,
    process_seconds,
    quantile,
    ratio,
    spread,
    timed,
)


def test_spread_and_ratio():
    assert spread([3.0, 1.0, 2.0, 10.0]) == {"median": 2.5, "min": 1.0, "max": 10.0}
    assert ratio(6.0, 2.0) == 3.0
    assert ratio(6.0, 0.0) is None
    assert quantile([0.0, 1.0, 2.0], 0.5) == 1.0


def test_routes_take_turns_and_each_round_starts_with_another():
    order: list[str] = []
    routes = {name: lambda name=name: order.append(name) or name for name in ("a", "b", "c")}
    found = paired(routes, 3, lambda _: None)
    assert order == ["a", "b", "c", "b", "c", "a", "c", "a", "b"]
    assert {name: (len(runs.costs), runs.output) for name, runs in found.items()} == {
        "a": (3, "a"),
        "b": (3, "b"),
        "c": (3, "c"),
    }
    assert set(found["a"].json()) == {"cpu_seconds", "wall_seconds"}


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_work_of_a_living_child_is_counted():
    spin = "x = 0\nfor i in range(3_000_000): x += i\nprint(x, flush=True)\ninput()"
    with subprocess.Popen(
        [sys.executable, "-c", spin], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:

        def work() -> None:
            assert child.stdout is not None
            child.stdout.readline()

        _, cost = timed(work)
        assert child.pid in below()
        assert process_seconds(child.pid) > 0
        assert (peak_bytes(child.pid) or 0) > 1_000_000
        child.communicate("\n")
    assert cost.cpu > 0
    assert process_seconds(child.pid) == 0.0
    assert peak_bytes(child.pid) is None


def test_agreement_of_pixels():
    one = np.zeros((2, 4, 4, 3), np.uint8)
    other = one + np.uint8(5)
    assert pixels_agree(one, one)["psnr_db"] is None
    found = pixels_agree(one, other)
    assert found["mean_abs_difference"] == 5.0
    assert found["psnr_db"] == pytest.approx(20 * np.log10(255 / 5), abs=0.01)
    assert pixels_agree(one, one[:1])["same_tiles"] is False


def test_least_cosine_is_of_the_worst_row():
    one = np.array([[1.0, 0.0], [1.0, 1.0]], np.float32)
    other = np.array([[2.0, 0.0], [1.0, 0.0]], np.float32)
    assert least_cosine(one, other) == pytest.approx(2**-0.5, abs=1e-5)
