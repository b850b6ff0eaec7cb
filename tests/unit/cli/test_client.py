"""The client against a service that fails now and then."""

import httpx
import pytest

from cli.client import CHUNK, Client
from xmag.errors import Code, PlaceError, RequestError


class Uploads:
    """A tus server in memory; every second PATCH is broken off half-way, its first half kept."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.patches = 0

    def __call__(self, request: httpx.Request) -> httpx.Response:
        if request.method == "PATCH":
            return self._patch(request)
        if request.method == "POST":
            return httpx.Response(201, headers={"Location": "/v1/uploads/7"})
        return httpx.Response(200, headers={"Upload-Offset": str(len(self.data))})

    def _patch(self, request: httpx.Request) -> httpx.Response:
        self.patches += 1
        body = request.read()
        assert int(request.headers["Upload-Offset"]) == len(self.data)
        if self.patches % 2:
            self.data += body[: len(body) // 2]
            raise httpx.ReadError("connection lost")
        self.data += body
        return httpx.Response(204, headers={"Upload-Offset": str(len(self.data))})


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    monkeypatch.setattr("cli.client.time.sleep", lambda _: None)


def client(handler) -> Client:
    return Client(httpx.Client(base_url="http://service", transport=httpx.MockTransport(handler)))


def ignore(*_: object) -> None:
    pass


def test_an_upload_goes_on_where_it_was_broken_off(tmp_path):
    slide = tmp_path / "Jane Doe.svs"
    slide.write_bytes(bytes(range(256)) * (3 * CHUNK // 256) + b"end")
    service = Uploads()
    with client(service) as http:
        assert http.upload(slide, tmp_path / "resume.json", ignore) == "7"
    assert service.data == slide.read_bytes()
    assert (tmp_path / "resume.json").read_text() == "{}"


def test_a_second_run_takes_up_the_upload_of_the_first(tmp_path):
    slide = tmp_path / "a.svs"
    slide.write_bytes(b"x" * 100)
    service = Uploads()

    def broken(request: httpx.Request) -> httpx.Response:
        if request.method == "PATCH":
            raise httpx.ConnectError("gone")
        return service(request)

    with client(broken) as http, pytest.raises(PlaceError):
        http.upload(slide, tmp_path / "resume.json", ignore)
    service.data += b"x" * 40
    posts = []

    def back(request: httpx.Request) -> httpx.Response:
        posts.extend([request.method] if request.method == "POST" else [])
        return service(request)

    with client(back) as http:
        assert http.upload(slide, tmp_path / "resume.json", ignore) == "7"
    assert posts == []
    assert bytes(service.data) == slide.read_bytes()


def test_a_problem_becomes_its_code_at_once():
    calls = []

    def refuse(request: httpx.Request) -> httpx.Response:
        calls.append(request)
        return httpx.Response(422, json={"code": "UNKNOWN_TASK", "detail": "no such task"})

    with client(refuse) as http, pytest.raises(RequestError, match="no such task") as caught:
        http.submit({})
    assert (caught.value.code, len(calls)) == (Code.UNKNOWN_TASK, 1)


def test_a_service_away_for_a_moment_is_asked_again():
    answers = iter([httpx.Response(503), httpx.Response(503), httpx.Response(202, json={"id": "1"})])
    with client(lambda _: next(answers)) as http:
        assert http.submit({}, "key") == {"id": "1"}
