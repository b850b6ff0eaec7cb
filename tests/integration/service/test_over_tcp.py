"""The gateway behind its real server: broken connections, streams, and what the server itself adds."""

import socket
import threading
import time
from collections.abc import Iterator

import httpx
import pytest
import uvicorn

from service import uploading
from service.app import create_app
from service.gateway import Gateway
from tests.integration.service.conftest import House
from tests.integration.service.test_uploads_api import DATA, TUS, begin, file_of, offset

Served = tuple[int, Gateway]


@pytest.fixture
def served(steady: House) -> Iterator[Served]:
    """Port of a gateway of its own on the same database and folders."""
    app = create_app(steady.settings)
    config = uvicorn.Config(
        app,
        port=0,
        log_config=None,
        access_log=False,
        server_header=False,
        ws="none",
        timeout_graceful_shutdown=1,
    )
    running = uvicorn.Server(config)
    thread = threading.Thread(target=running.run)
    thread.start()
    until(lambda: running.started)
    yield running.servers[0].sockets[0].getsockname()[1], app.state.gateway
    running.should_exit = True
    thread.join()


def until(holds: object, seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not holds():  # type: ignore[operator]
        assert time.monotonic() < end
        time.sleep(0.02)


def patching(steady: House, served: Served, where: str) -> socket.socket:
    """A connection on which the body of a PATCH of `DATA` may be sent."""
    headers = {
        **steady.auth(),
        **TUS,
        "Host": "gateway",
        "Upload-Offset": "0",
        "Content-Type": "application/offset+octet-stream",
        "Content-Length": str(len(DATA)),
    }
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    connection = socket.create_connection(("127.0.0.1", served[0]))
    connection.sendall(f"PATCH {where} HTTP/1.1\r\n{lines}\r\n".encode())
    return connection


def test_a_connection_that_breaks_in_mid_body_keeps_what_arrived(steady: House, served: Served) -> None:
    where = begin(steady).headers["location"]
    with patching(steady, served, where) as connection:
        connection.sendall(DATA[:2_000_000])
        until(lambda: file_of(steady, where).stat().st_size > 0)
    until(lambda: offset(steady, where) > 0)
    kept = offset(steady, where)
    assert kept <= 2_000_000
    assert file_of(steady, where).read_bytes()[:kept] == DATA[:kept]


def test_a_long_patch_is_acknowledged_on_the_way(
    steady: House, served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploading, "CHECKPOINT", 1_000_000)
    where = begin(steady).headers["location"]
    with patching(steady, served, where) as connection:
        connection.sendall(DATA[:2_200_000])
        until(lambda: offset(steady, where) >= 1_000_000)
        connection.sendall(DATA[2_200_000:])
        until(lambda: offset(steady, where) == len(DATA))
    assert file_of(steady, where).read_bytes() == DATA


def test_a_body_that_breaks_off_is_no_fault_of_ours(steady: House, served: Served) -> None:
    headers = {
        **steady.auth(),
        "Host": "gateway",
        "Content-Type": "application/json",
        "Content-Length": "100",
    }
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    with socket.create_connection(("127.0.0.1", served[0])) as connection:
        connection.sendall(f"POST /v1/jobs HTTP/1.1\r\n{lines}\r\n".encode() + b'{"slide"')

    def counted() -> str:
        return httpx.get(f"http://127.0.0.1:{served[0]}/metrics").text

    until(lambda: 'route="/v1/jobs",status=' in counted())
    assert 'route="/v1/jobs",status="499"' in counted()


def test_events_arrive_while_the_job_goes_on(steady: House, served: Served) -> None:
    job = steady.submit().json()
    url = f"http://127.0.0.1:{served[0]}/v1/jobs/{job['id']}/events"
    names = []
    with httpx.stream("GET", url, headers=steady.auth(), timeout=20) as stream:
        assert "server" not in stream.headers
        for line in stream.iter_lines():
            if line.startswith("event: "):
                names.append(line.removeprefix("event: "))
                if len(names) == 1:
                    steady.finish()
    assert names[0] == "progress"
    assert names[-1] == "done"


def test_a_reader_that_leaves_frees_its_stream(steady: House, served: Served) -> None:
    job = steady.submit().json()
    url = f"http://127.0.0.1:{served[0]}/v1/jobs/{job['id']}/events"
    with httpx.stream("GET", url, headers=steady.auth(), timeout=20) as stream:
        lines = stream.iter_lines()  # kept: an iterator that is dropped closes the connection
        assert next(lines).startswith("retry")
        assert served[1].streams == 1
    until(lambda: served[1].streams == 0)
