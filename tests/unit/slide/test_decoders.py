"""Decoders are lent one slide at a time, kept while they are whole, and renewed."""

import os
import signal
import time
from pathlib import Path

import pytest

from xmag.config import Decode
from xmag.errors import Code, JobError, SlideError
from xmag.slide import decoders
from xmag.slide.decoders import Decoders


@pytest.fixture
def pool():
    with Decoders(Decode()) as made:
        yield made


def test_a_whole_decoder_is_lent_again(pool):
    with pool.lend() as first:
        pass
    with pool.lend() as second:
        assert second is first
        with pool.lend() as other:
            assert other is not first


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="looks in /proc")
def test_an_idle_decoder_holds_no_slide(pool, write, picture):
    location = write("a.svs", picture)
    with pool.lend() as decoder:
        decoder.open(location, digest=False)
        assert str(location.root / location.relative) in held_by(decoder.pid)
    assert not decoder.closed
    assert str(location.root / location.relative) not in held_by(decoder.pid)
    with pool.lend() as again:
        assert again is decoder
        with pytest.raises(JobError, match="no slide is open"):
            again.check_unchanged()


def held_by(pid):
    return {os.readlink(each) for each in Path(f"/proc/{pid}/fd").iterdir()}


def test_what_an_error_left_behind_is_not_lent(pool):
    with pytest.raises(SlideError), pool.lend() as broken:
        raise SlideError(Code.SLIDE_CORRUPT, "broken")
    assert broken.closed
    with pool.lend() as fresh:
        assert fresh is not broken


def test_a_decoder_is_renewed_after_some_slides(pool, monkeypatch):
    monkeypatch.setattr(decoders, "SLIDES", 2)
    seen = []
    for _ in range(3):
        with pool.lend() as decoder:
            seen.append(decoder)
    assert seen[0] is seen[1]
    assert seen[1].closed
    assert seen[2] is not seen[1]


def test_a_decoder_that_comes_back_to_a_closed_pool_is_ended(pool):
    with pool.lend() as decoder:
        pool.close()
        assert not decoder.closed
    assert decoder.closed


def test_stopping_from_another_thread_ends_the_call(pool):
    with pool.lend() as decoder:
        decoder.stop()
        with pytest.raises(SlideError) as caught:
            decoder.check_unchanged()
    assert caught.value.code is Code.DECODE_CRASH
    with pool.lend() as fresh:
        assert fresh is not decoder


def test_an_idle_decoder_that_ended_is_not_lent(pool):
    with pool.lend() as first:
        pass
    os.kill(first.pid, signal.SIGKILL)
    deadline = time.monotonic() + 10
    while first.alive:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    with pool.lend() as second:
        assert second is not first
        assert second.alive


def test_a_decoder_that_was_ended_is_not_signalled_again(pool, monkeypatch):
    with pool.lend() as decoder:
        decoder.close()
        monkeypatch.setattr(os, "killpg", lambda *_: pytest.fail("that number may be another's"))
        decoder.stop()
