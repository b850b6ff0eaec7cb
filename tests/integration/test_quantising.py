"""What quantising does to the process around it: nothing."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("openvino", reason="the extra `openvino` is not installed")


def test_quantising_is_silent_and_stays_off_the_network(tmp_path) -> None:
    """In a process of its own: NNCF behaves otherwise when pytest runs it."""
    program = f"""
import os, socket, sys
def no(*_): os._exit(77)
socket.socket.connect = socket.getaddrinfo = os.fork = no
sys.path.insert(0, {str(Path(__file__).parents[2])!r})
from pathlib import Path
from tests.unit.nn.conftest import Releases
from xmag.config import Worker
from xmag.nn.runtime import Engine
releases = Releases(Path({str(tmp_path)!r}) / "releases")
engine = Engine(releases.folder, releases.trusted, Worker(device="cpu", precision="int8", threads=1))
encoder = engine.encoder(releases.encoder())
assert engine.accepted(encoder, [])[0] == "int8", encoder.refused
assert "openvino_telemetry.main" not in sys.modules
"""
    home = tmp_path / "home"
    home.mkdir()
    environment = {**os.environ, "HOME": str(home), "CUDA_HOME": ""}
    environment.pop("CI", None)
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "-c", program],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert list(home.iterdir()) == []
