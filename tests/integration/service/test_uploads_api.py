"""Resumable uploads over HTTP: what was acknowledged is on disk, whatever happens to sender or server."""

import base64
import fcntl
import hashlib
import os
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import anyio
import pytest
from sqlalchemy import text

from service import upload_files
from service.app import create_app
from tests.integration.service.conftest import House, TestClient
from xmag.config import Uploads
from xmag.db import uploads
from xmag.db.session import transaction
from xmag.errors import Code, PlaceError

TUS = {"Tus-Resumable": "1.0.0"}
DATA = os.urandom(3_000_000)


def encoded(**fields: str) -> str:
    return ",".join(f"{key} {base64.b64encode(value.encode()).decode()}" for key, value in fields.items())


def begin(house: House, size: int = len(DATA), **fields: str) -> Any:
    headers = {**house.auth(), **TUS, "Upload-Length": str(size)}
    if fields:
        headers["Upload-Metadata"] = encoded(**fields)
    return house.client.post("/v1/uploads", headers=headers)


def send(house: House, where: str, offset: int, data: Any, **headers: str) -> Any:
    kind = {"Content-Type": "application/offset+octet-stream", "Upload-Offset": str(offset)}
    return house.client.patch(where, content=data, headers={**house.auth(), **TUS, **kind, **headers})


def offset(house: House, where: str) -> int:
    answer = house.client.head(where, headers={**house.auth(), **TUS})
    assert answer.status_code == 200, answer.headers
    assert answer.headers["cache-control"] == "no-store"
    return int(answer.headers["upload-offset"])


def refused(answer: Any, status: int, code: str) -> None:
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
    assert answer.headers["tus-resumable"] == "1.0.0"


def file_of(house: House, where: str) -> Path:
    return upload_files.upload_path(house.settings.uploads_dir, UUID(where.rpartition("/")[2]))


def checksum(data: bytes, algorithm: str = "sha256") -> dict[str, str]:
    digest = hashlib.new(algorithm, data).digest()
    return {"Upload-Checksum": f"{algorithm} {base64.b64encode(digest).decode()}"}


def test_a_server_says_what_it_can(house: House) -> None:
    answer = house.client.options("/v1/uploads")
    assert answer.status_code == 204
    assert answer.headers["tus-version"] == "1.0.0"
    assert set(answer.headers["tus-extension"].split(",")) == {
        "creation",
        "checksum",
        "termination",
        "expiration",
    }
    assert "sha256" in answer.headers["tus-checksum-algorithm"].split(",")
    assert answer.headers["tus-max-size"] == "10000000"


def test_an_upload_in_parts_becomes_a_job(house: House) -> None:
    made = begin(house, filename="Meier^Hans.SVS", sha256=hashlib.sha256(DATA).hexdigest())
    where = made.headers["location"]
    assert (made.status_code, where.rpartition("/")[0]) == (201, "/v1/uploads")
    assert made.headers["upload-expires"].endswith("GMT")
    assert offset(house, where) == 0
    job = {"slide": {"upload": where.rpartition("/")[2]}}
    refused_early = house.submit(**job)
    assert (refused_early.status_code, refused_early.json()["code"]) == (409, "CONFLICT")
    first = send(house, where, 0, DATA[:1_500_000], **checksum(DATA[:1_500_000]))
    assert (first.status_code, first.headers["upload-offset"]) == (204, "1500000")
    assert offset(house, where) == 1_500_000
    last = send(house, where, 1_500_000, DATA[1_500_000:], **checksum(DATA[1_500_000:], "sha1"))
    assert (last.status_code, last.headers["upload-offset"]) == (204, str(len(DATA)))
    assert file_of(house, where).read_bytes() == DATA
    assert file_of(house, where).name == f"{where.rpartition('/')[2]}.svs"
    answer = house.submit(**job)
    assert answer.status_code == 202
    slide = house.client.get(f"/v1/slides/{answer.json()['slide']}", headers=house.auth()).json()
    assert (slide["source"], slide["sha256"]) == ("upload", hashlib.sha256(DATA).hexdigest())
    again = send(house, where, len(DATA), b"")
    assert (again.status_code, again.headers["upload-offset"]) == (204, str(len(DATA)))
    refused(house.client.delete(where, headers={**house.auth(), **TUS}), 409, "CONFLICT")


def test_the_offset_is_acknowledged_only_after_the_bytes_are_synced(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = begin(house).headers["location"]
    seen: list[int] = []
    real = upload_files.sync

    def sync(fd: int) -> None:
        with transaction(house.engine) as session:
            row = uploads.get(session, UUID(where.rpartition("/")[2]))
            assert row is not None
            seen.append(row.offset_bytes)
        real(fd)

    monkeypatch.setattr(upload_files, "sync", sync)
    assert send(house, where, 0, DATA[:1000]).status_code == 204
    assert send(house, where, 1000, DATA[1000:]).status_code == 204
    assert seen == [0, 1000]


def test_after_a_crash_between_write_and_commit_the_upload_goes_on(house: House) -> None:
    where = begin(house).headers["location"]
    send(house, where, 0, DATA[:1_000_000])
    with file_of(house, where).open("r+b") as file:
        file.seek(1_000_000)
        file.write(b"bytes that nobody was told of")
    with TestClient(create_app(house.settings)) as fresh:
        restarted = House(house.app, fresh, *list(vars(house).values())[2:])
        assert offset(restarted, where) == 1_000_000
        assert send(restarted, where, 1_000_000, DATA[1_000_000:]).status_code == 204
    assert file_of(house, where).read_bytes() == DATA


def test_a_sender_that_vanishes_loses_nothing_that_arrived(house: House) -> None:
    where = begin(house).headers["location"]
    vanish(house, where, DATA[:1_200_000])
    assert offset(house, where) == 1_200_000
    assert file_of(house, where).read_bytes() == DATA[:1_200_000]
    vanish(house, where, DATA[1_200_000:1_300_000], at=1_200_000, **checksum(b"all of it"))
    assert offset(house, where) == 1_200_000
    assert send(house, where, 1_200_000, DATA[1_200_000:]).status_code == 204
    assert file_of(house, where).read_bytes() == DATA


def vanish(house: House, where: str, data: bytes, at: int = 0, **more: str) -> None:
    """A PATCH whose connection breaks after ``data``, at the ASGI level."""
    headers = {**house.auth(), **TUS, "Content-Type": "application/offset+octet-stream", **more}
    headers |= {"Upload-Offset": str(at), "Content-Length": str(len(data) + 1000)}
    messages = [
        {"type": "http.request", "body": data, "more_body": True},
        {"type": "http.disconnect"},
    ]

    app = create_app(house.settings)

    async def run() -> None:
        async def receive() -> Any:
            return messages.pop(0)

        async def swallow(_: Any) -> None:
            return None

        scope = {
            "type": "http",
            "http_version": "1.1",
            "method": "PATCH",
            "path": where,
            "raw_path": where.encode(),
            "query_string": b"",
            "root_path": "",
            "scheme": "http",
            "headers": [(name.lower().encode(), value.encode()) for name, value in headers.items()],
        }
        await app(scope, receive, swallow)

    anyio.run(run)
    app.state.gateway.close()


def test_wrong_bytes_are_dropped(house: House) -> None:
    where = begin(house).headers["location"]
    refused(send(house, where, 0, DATA[:1000], **checksum(b"others")), 460, "CHECKSUM_MISMATCH")
    refused(send(house, where, 0, DATA[:9], **{"Upload-Checksum": "md5 AAAA"}), 400, "INVALID_REQUEST")
    refused(send(house, where, 0, DATA[:9], **{"Upload-Checksum": "sha256 !"}), 400, "INVALID_REQUEST")
    refused(send(house, where, 0, DATA + b"x"), 413, "TOO_LARGE")
    refused(send(house, where, 0, iter([DATA, b"x"])), 413, "TOO_LARGE")
    refused(send(house, where, 5, DATA[5:]), 409, "OFFSET_MISMATCH")
    assert offset(house, where) == 0


def test_another_file_than_declared_is_rejected_for_good(house: House) -> None:
    where = begin(house, sha256="0" * 64).headers["location"]
    path = file_of(house, where)
    refused(send(house, where, 0, DATA), 460, "CHECKSUM_MISMATCH")
    refused(send(house, where, 0, DATA), 410, "GONE")
    assert not path.exists()
    answer = house.submit(slide={"upload": where.rpartition("/")[2]})
    assert (answer.status_code, answer.json()["code"]) == (422, "SLIDE_NOT_FOUND")


def test_one_writer_at_a_time(house: House) -> None:
    where = begin(house).headers["location"]
    fd = os.open(file_of(house, where), os.O_RDWR)
    fcntl.flock(fd, fcntl.LOCK_EX)
    answer = send(house, where, 0, DATA)
    refused(answer, 423, "LOCKED")
    assert answer.headers["retry-after"]
    refused(house.client.delete(where, headers={**house.auth(), **TUS}), 423, "LOCKED")
    os.close(fd)
    assert send(house, where, 0, DATA).status_code == 204


def test_a_full_disk_keeps_what_was_acknowledged(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    where = begin(house).headers["location"]
    send(house, where, 0, DATA[:1000])
    written = []
    real = upload_files.write

    def write(fd: int, data: bytes, at: int) -> None:
        if written:
            raise PlaceError(Code.DISK_FULL, "the disk is full")
        written.append(len(data))
        real(fd, data, at)

    monkeypatch.setattr(upload_files, "write", write)
    answer = send(house, where, 1000, iter([DATA[1000:2_000_000], DATA[2_000_000:]]))
    refused(answer, 507, "DISK_FULL")
    assert answer.headers["retry-after"]
    monkeypatch.undo()
    kept = offset(house, where)
    assert kept == 1000 + written[0]
    assert send(house, where, kept, DATA[kept:]).status_code == 204
    assert file_of(house, where).read_bytes() == DATA


def test_reserved_space_is_left_free(house: House) -> None:
    tight = house.settings.model_copy(update={"uploads": Uploads(max_bytes=10_000_000, reserve_bytes=2**62)})
    with TestClient(create_app(tight)) as client:
        refused(begin(House(house.app, client, *list(vars(house).values())[2:])), 507, "DISK_FULL")


def test_caps(house: House) -> None:
    refused(begin(house, 10_000_001), 413, "TOO_LARGE")
    refused(begin(house, 0), 422, "INVALID_REQUEST")
    refused(begin(house, filename="report.pdf"), 415, "UNSUPPORTED_MEDIA")
    refused(begin(house, filename="a.mrxs"), 415, "UNSUPPORTED_MEDIA")
    refused(begin(house, sha256="abc"), 422, "INVALID_REQUEST")
    for _ in range(4):
        assert begin(house).status_code == 201
    refused(begin(house), 429, "TOO_MANY")


@pytest.mark.parametrize("headers", [{}, {"Tus-Resumable": "0.2.2"}])
def test_another_protocol_version_is_412(house: House, headers: dict[str, str]) -> None:
    answer = house.client.post("/v1/uploads", headers={**house.auth(), **headers, "Upload-Length": "5"})
    refused(answer, 412, "PRECONDITION")
    assert answer.headers["tus-version"] == "1.0.0"


@pytest.mark.parametrize(
    "headers", [{}, {"Upload-Length": "-1"}, {"Upload-Length": "x"}, {"Upload-Length": "9" * 30}]
)
def test_a_length_is_needed(house: House, headers: dict[str, str]) -> None:
    refused(
        house.client.post("/v1/uploads", headers={**house.auth(), **TUS, **headers}), 422, "INVALID_REQUEST"
    )


def test_another_content_type_is_refused(house: House) -> None:
    where = begin(house).headers["location"]
    headers = {**house.auth(), **TUS, "Upload-Offset": "0", "Content-Type": "application/octet-stream"}
    refused(house.client.patch(where, content=DATA, headers=headers), 415, "UNSUPPORTED_MEDIA")


def test_metadata_that_is_not_tus(house: House) -> None:
    headers = {**house.auth(), **TUS, "Upload-Length": "5", "Upload-Metadata": "filename a.svs"}
    refused(house.client.post("/v1/uploads", headers=headers), 422, "INVALID_REQUEST")


def test_uploads_of_others_do_not_exist(house: House) -> None:
    where = begin(house).headers["location"]
    other = {**house.auth("other"), **TUS}
    assert house.client.head(where, headers=other).status_code == 404
    refused(house.client.delete(where, headers=other), 404, "NOT_FOUND")
    kind = {"Content-Type": "application/offset+octet-stream", "Upload-Offset": "0"}
    refused(house.client.patch(where, content=DATA, headers={**other, **kind}), 404, "NOT_FOUND")
    send(house, where, 0, DATA)
    body = {"slide": {"upload": where.rpartition("/")[2]}, "tasks": ["nsclc"]}
    theirs = house.client.post("/v1/jobs", json=body, headers=house.auth("other"))
    unknown = house.submit(slide={"upload": str(uuid4())})
    assert [theirs.status_code, unknown.status_code] == [422, 422]
    assert theirs.json()["detail"] == unknown.json()["detail"]
    assert house.client.post("/v1/jobs", json=body, headers=house.auth("admin")).status_code == 202


def test_giving_up_and_expiring(house: House) -> None:
    where = begin(house).headers["location"]
    path = file_of(house, where)
    assert house.client.delete(where, headers={**house.auth(), **TUS}).status_code == 204
    assert not path.exists()
    assert house.client.head(where, headers={**house.auth(), **TUS}).status_code == 410
    silent = begin(house).headers["location"]
    with house.engine.begin() as connection:
        connection.execute(text("update uploads set expires_at = now() - interval '1 second'"))
    refused(send(house, silent, 0, DATA), 410, "GONE")
