"""Child processes of the one-command set-up: started with a log, stopped for certain, found again."""

import contextlib
import fcntl
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xmag.errors import Code, PlaceError

LOG_BYTES = 16 * 1024**2
STOP_SECONDS = 30.0


class Guard:
    """A helper process that stops our children if we die without stopping them ourselves."""

    def __init__(self) -> None:
        script = Path(__file__).with_name("guard.py")
        self._process = subprocess.Popen(  # noqa: S603
            [sys.executable, "-I", "-S", str(script)],
            stdin=subprocess.PIPE,
            start_new_session=True,
        )

    def watch(self, pid: int, stop_signal: int) -> None:
        """Name a child that must not outlive us."""
        self._say(f"+{pid} {int(stop_signal)}\n")

    def forget(self, pid: int) -> None:
        """Take back a child that has ended."""
        self._say(f"-{pid}\n")

    def close(self) -> None:
        """End the helper; whatever is still watched is stopped."""
        with contextlib.suppress(OSError):
            self._pipe().close()
        self._process.wait(STOP_SECONDS)

    def _say(self, line: str) -> None:
        with contextlib.suppress(OSError):
            self._pipe().write(line.encode())
            self._pipe().flush()

    def _pipe(self) -> Any:
        return self._process.stdin


class Child:
    """One child process: at most one alive at a time, its output appended to one log file."""

    def __init__(self, log: Path, guard: Guard, stop_signal: signal.Signals = signal.SIGTERM) -> None:
        self.log = log
        self._guard = guard
        self._stop_signal = stop_signal
        self._process: subprocess.Popen[bytes] | None = None

    def spawn(
        self,
        command: Sequence[str | Path],
        env: Mapping[str, str],
        cwd: Path | None = None,
        identity: Mapping[str, Any] | None = None,
    ) -> None:
        """Start the command; ``identity`` holds subprocess' user and group when they change."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with _append(self.log) as log:
            self._process = subprocess.Popen(  # noqa: S603
                [str(word) for word in command],
                env=dict(env),
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                **(identity or {}),
            )
        self._guard.watch(self._process.pid, self._stop_signal)

    @property
    def pid(self) -> int:
        """Process id of the latest start, 0 before the first."""
        return self._process.pid if self._process else 0

    def alive(self) -> bool:
        """Whether it runs; reaps it when it has ended."""
        if self._process is None:
            return False
        if self._process.poll() is None:
            return True
        self._guard.forget(self._process.pid)
        return False

    def stop(self, grace: float = STOP_SECONDS) -> None:
        """Signal, wait, and kill after the grace time in seconds."""
        if self._process is None or not self.alive():
            return
        self._process.send_signal(self._stop_signal)
        try:
            self._process.wait(grace)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._guard.forget(self._process.pid)

    def last_words(self, lines: int = 3) -> str:
        """End of the log, for a person who must find out why it did not start."""
        if not self.log.exists():
            return ""
        return " | ".join(self.log.read_text(errors="replace").splitlines()[-lines:])


@contextlib.contextmanager
def folder_lock(folder: Path) -> Iterator[None]:
    """Hold ``folder/lock``; raises PlaceError SETUP when another process holds it."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            reason = "another `xmag up` or demo runs on this data folder: stop it first, or use its URL"
            raise PlaceError(Code.SETUP, reason) from None
        yield


@dataclass(frozen=True, slots=True)
class Access:
    """Port and password of one embedded server."""

    port: int
    password: str


def load_access(path: Path) -> Access:
    """Read the file, or make one (mode 0600) with a free port and a new password."""
    if path.exists():
        return Access(**json.loads(path.read_text()))
    access = Access(free_port(), secrets.token_hex(24))
    save_access(path, access)
    return access


def save_access(path: Path, access: Access) -> None:
    """Write the file whole or not at all, readable by its owner alone."""
    write_private(path, json.dumps({"port": access.port, "password": access.password}))


def write_private(path: Path, text: str) -> None:
    """Replace a file atomically, mode 0600."""
    part = path.with_name(path.name + ".part")
    fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(fd, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(fd)
    part.replace(path)


def settle_port(path: Path, access: Access) -> Access:
    """The same access, or one with another port when somebody else listens on the kept one."""
    if port_is_free(access.port):
        return access
    moved = Access(free_port(), access.password)
    save_access(path, moved)
    return moved


def free_port() -> int:
    """A TCP port on 127.0.0.1 that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def port_is_free(port: int, host: str = "127.0.0.1") -> bool:
    """Whether a server could listen there."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def leftover(pid_file: Path, home: Path) -> int:
    """Pid of a server that an earlier run left in ``home`` (its working folder), 0 if none is known.

    Only Linux can tell by /proc; elsewhere the guard alone has to do.
    """
    try:
        pid = int(pid_file.read_text().split()[0])
        here = Path(f"/proc/{pid}/cwd").resolve(strict=True) == home.resolve()
    except (OSError, ValueError, IndexError):
        return 0
    return pid if here else 0


def _append(log: Path) -> Any:
    if log.exists() and log.stat().st_size > LOG_BYTES:
        log.replace(log.with_name(log.name + ".1"))
    return log.open("ab")
