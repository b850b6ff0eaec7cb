"""What starting a program imports and reads."""

import subprocess
import sys


def test_the_dispatcher_starts_without_torch():
    code = "import sys, worker.dispatcher; assert not {'torch', 'timm', 'xmag.nn'} & set(sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_app_reads_no_setting_until_asked(monkeypatch):
    code = "import worker.app"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={"XMAG_NONSENSE": "1", "PATH": ""}
    )
    assert done.returncode == 0, done.stderr
