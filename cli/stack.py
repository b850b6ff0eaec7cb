"""The whole service on one machine: embedded servers and the three programs, started and kept alive."""

import contextlib
import functools
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import httpx

from cli.local import database, local_settings, signing_key
from xmag import embedded
from xmag.config import Settings, load_settings
from xmag.db import keys
from xmag.db.migrate import upgrade
from xmag.embedded.process import Child, Guard, free_port, port_is_free, write_private
from xmag.errors import Code, PlaceError
from xmag.registry import public_key_text

HOST = "127.0.0.1"
READY_SECONDS = 60.0
STEADY_SECONDS = 30.0
LONGEST_PAUSE = 10.0
Reporter = Callable[[str], None]


class Unit(Protocol):
    """Something that is kept alive: a server or a program."""

    @property
    def pid(self) -> int:
        """Process id of the latest start."""

    def start(self) -> None:
        """Start it again after it died."""

    def alive(self) -> bool:
        """Whether it runs."""

    def stop(self) -> None:
        """End it in an orderly way."""


class Program:
    """``xmag NAME`` as a child process with its own log."""

    def __init__(
        self, name: str, log: Path, guard: Guard, environment: Callable[[], Mapping[str, str]]
    ) -> None:
        self._name = name
        self._child = Child(log, guard)
        self._environment = environment

    @property
    def pid(self) -> int:
        """Process id of the latest start."""
        return self._child.pid

    def start(self) -> None:
        """Start it with the environment of now."""
        home = Path(__file__).resolve().parent.parent
        command = [sys.executable, "-m", "cli.main", self._name]
        self._child.spawn(command, self._environment(), cwd=home)

    def alive(self) -> bool:
        """Whether it runs."""
        return self._child.alive()

    def stop(self) -> None:
        """SIGTERM, and SIGKILL if that is not heard."""
        self._child.stop()


@dataclass
class Stack:
    """A running service and how to reach it."""

    url: str
    api_key: str
    settings: Settings
    units: dict[str, Unit]
    restarts: dict[str, int] = field(default_factory=dict)

    def pids(self) -> dict[str, int]:
        """Process ids by name: postgres, redis, serve, dispatcher, worker."""
        return {name: unit.pid for name, unit in self.units.items()}


@contextlib.contextmanager
def running_stack(
    data: Path,
    *,
    roots: Mapping[str, Path] | None = None,
    port: int = 8080,
    redis: bool = True,
    environment: Mapping[str, str] | None = None,
    workers: Sequence[Mapping[str, str]] = ({},),
    reporter: Reporter = embedded.silent,
) -> Iterator[Stack]:
    """Run the service on ``data`` while the block lasts; what dies is started again.

    ``environment`` adds XMAG_ variables for all programs, each of ``workers`` for one worker, of which there
    are as many: worker, worker-2 and so on. Raises PlaceError SETUP.
    """
    data = data.absolute()
    if load_settings().env == "production":
        reason = "the one-command set-up is not for production: unset XMAG_ENV, or use docker-compose.yml"
        raise PlaceError(Code.SETUP, reason)
    (data / "slides").mkdir(parents=True, exist_ok=True)
    with embedded.start(data, redis=redis, reporter=reporter) as servers, contextlib.ExitStack() as stack:
        reporter("bringing the database to the newest schema")
        upgrade(servers.database_url)
        variables = _variables(data, roots or {}, _choose_port(port, reporter)) | dict(environment or {})
        names: dict[str, Unit] = {"postgres": servers.postgres}
        if servers.redis:
            names["redis"] = servers.redis

        programs = _programs(workers)
        for name, own in programs.items():
            environ = functools.partial(_environment, servers, {**variables, **own})
            program = Program(name.partition("-")[0], data / "log" / f"{name}.log", servers.guard, environ)
            stack.callback(program.stop)
            names[name] = program
        url = f"http://{HOST}:{variables['XMAG_PORT']}"
        running = Stack(url, _first_key(data), local_settings(data), names)
        write_private(data / "url", url + "\n")
        write_private(data / "roots.json", variables["XMAG_SLIDE_ROOTS"])
        reporter("starting gateway, dispatcher and worker")
        for name in programs:
            names[name].start()
        stack.enter_context(_supervised(running, servers, reporter))
        _wait_until_ready(url, names["serve"], data)
        yield running


@contextlib.contextmanager
def _supervised(running: Stack, servers: embedded.Servers, reporter: Reporter) -> Iterator[None]:
    stop = threading.Event()
    watcher = threading.Thread(target=_supervise, args=(running, servers, stop, reporter), name="supervisor")
    watcher.start()
    try:
        yield
    finally:
        stop.set()
        watcher.join()


def _supervise(running: Stack, servers: embedded.Servers, stop: threading.Event, reporter: Reporter) -> None:
    """Start again whatever ended, waiting longer each time that it does not hold."""
    pauses = dict.fromkeys(running.units, 0.0)
    due = dict.fromkeys(running.units, 0.0)
    while not stop.wait(0.1):
        for name, unit in running.units.items():
            now = time.monotonic()
            if unit.alive() or now < due[name]:
                continue
            reporter(f"{name} ended: starting it again (its log: log/ in the data folder)")
            running.restarts[name] = running.restarts.get(name, 0) + 1
            pauses[name] = 0.5 if now > due[name] + STEADY_SECONDS else min(LONGEST_PAUSE, pauses[name] * 2)
            _start_again(name, running, servers, reporter)
            due[name] = time.monotonic() + pauses[name]


def _start_again(name: str, running: Stack, servers: embedded.Servers, reporter: Reporter) -> None:
    """A server that had to move to another port takes the programs with it."""
    before = (servers.database_url, servers.redis_url)
    try:
        running.units[name].start()
    except (PlaceError, OSError) as error:
        reporter(f"{name} could not be started: {error}")
    if (servers.database_url, servers.redis_url) != before:
        for program in running.units.values():
            if isinstance(program, Program):
                program.stop()


def _programs(workers: Sequence[Mapping[str, str]]) -> dict[str, Mapping[str, str]]:
    """Name of each program -> variables of its own."""
    named = {f"worker-{place}" if place > 1 else "worker": own for place, own in enumerate(workers, 1)}
    return {"serve": {}, "dispatcher": {}, **named}


def _variables(data: Path, roots: Mapping[str, Path], port: int) -> dict[str, str]:
    """The programs' settings that do not change while the stack runs."""
    named = {"slides": data / "slides", **roots}
    trusted = {public_key_text(signing_key(data)), *load_settings().trusted_keys}
    return {
        "XMAG_DATA": str(data),
        "XMAG_SLIDE_ROOTS": json.dumps({name: str(root.absolute()) for name, root in named.items()}),
        "XMAG_TRUSTED_KEYS": json.dumps(sorted(trusted)),
        "XMAG_HOST": HOST,
        "XMAG_PORT": str(port),
        "XMAG_METRICS_PORT": "0",
    }


def _environment(servers: embedded.Servers, variables: Mapping[str, str]) -> dict[str, str]:
    addresses = {"XMAG_DATABASE_URL": servers.database_url, "XMAG_REDIS_URL": servers.redis_url}
    return {**os.environ, **addresses, **variables}


def _choose_port(port: int, reporter: Reporter) -> int:
    if port and port_is_free(port, HOST):
        return port
    chosen = free_port()
    if port:
        reporter(f"port {port} is taken: using {chosen}")
    return chosen


def _first_key(data: Path) -> str:
    """The key in ``api-key``, made when the file or the key is not there."""
    path, settings = data / "api-key", local_settings(data)
    with database(settings) as session:
        if path.exists() and keys.verify(session, path.read_text().strip()):
            return path.read_text().strip()
        token = keys.create(session, "first key", keys.SCOPES)
    write_private(path, token + "\n")
    return token


def _wait_until_ready(url: str, gateway: Unit, data: Path) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline:
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(f"{url}/healthz", timeout=2).status_code == httpx.codes.OK:
                return
        time.sleep(0.1)
    state = "runs but does not answer" if gateway.alive() else "does not start"
    log = data / "log" / "serve.log"
    words = log.read_text(errors="replace").splitlines()[-1:] if log.exists() else []
    raise PlaceError(Code.SETUP, f"the gateway {state}; last line of log/serve.log: {' '.join(words)}")
