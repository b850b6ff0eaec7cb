"""`xmag up` as people run it: started, killed, interrupted; nothing of it stays behind."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from cli import local
from cli.weights import promote_head
from tests.acceptance.conftest import QUICK, publish_heads


@contextmanager
def up(data: Path) -> Iterator[subprocess.Popen]:
    command = [sys.executable, "-m", "cli.main", "up", "--port", "0", "--data", str(data)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def told(process: subprocess.Popen) -> str:
    """What it printed until it runs."""
    lines = []
    for line in process.stdout:
        lines.append(line)
        if line.startswith(("running", "error")):
            break
    return "".join(lines)


def of(data: Path) -> set[int]:
    """Processes that run on a data folder: by their own folder, command line or environment."""
    found = set()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            traces = (entry / "cmdline").read_bytes() + (entry / "environ").read_bytes()
            traces += os.fsencode(os.readlink(entry / "cwd"))
        except OSError:
            continue
        if os.fsencode(data) in traces:
            found.add(int(entry.name))
    return found


def wait_until_none(data: Path) -> None:
    deadline = time.monotonic() + 60
    while of(data) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert of(data) == set()


@pytest.mark.skipif(not Path("/proc").exists(), reason="needs /proc to look for processes")
def test_nothing_lingers_and_the_address_holds(tmp_path):
    data = tmp_path / "data"
    with up(data) as process:
        text = told(process)
        key = (data / "api-key").read_text().strip()
        assert key in text
        assert "no weights are promoted" in text
        url = (data / "url").read_text().strip()
        assert url in text
        answer = httpx.get(f"{url}/v1/jobs", headers={"Authorization": f"Bearer {key}"})
        assert answer.json()["jobs"] == []
        assert "GET /v1/jobs 200" in (data / "log" / "serve.log").read_text()
        assert len(of(data)) >= 6
        second = subprocess.run(process.args, capture_output=True, text=True)
        assert (second.returncode, second.stdout) == (1, "")
        assert "another `xmag up`" in second.stderr
        process.kill()
        process.wait()
        wait_until_none(data)
    with up(data) as process:
        assert key in told(process)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
    wait_until_none(data)


def test_heads_promoted_offline_are_served(tmp_path):
    data = tmp_path / "data"
    heads = publish_heads(data, QUICK, ("nsclc",))
    assert promote_head(local.local_settings(data), heads["nsclc"]) == ("nsclc", False)
    local.set_active(data, "rcc", "0" * 64)
    with up(data) as process:
        text = told(process)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
    assert "tasks    nsclc\n" in text
    assert text.count("rcc is not served") == 1
    wait_until_none(data)
