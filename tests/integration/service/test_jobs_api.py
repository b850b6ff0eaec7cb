"""Submit, read, follow, cancel, retry, over HTTP on a real database."""

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import text

from tests.integration.service.conftest import House
from xmag.errors import Code


def test_a_submit_is_queued_with_its_bell_before_it_is_answered(house: House) -> None:
    answer = house.submit(priority="stat", accession="S26-1", stain="HE")
    assert answer.status_code == 202
    job = answer.json()
    assert answer.headers["location"] == f"/v1/jobs/{job['id']}"
    assert int(answer.headers["retry-after"]) > 0
    assert (job["state"], job["priority"], job["tasks"]) == ("queued", "stat", ["nsclc"])
    assert (job["accession"], job["stain"], job["error"]) == ("S26-1", "HE", None)
    with house.engine.connect() as connection:
        bells = connection.execute(text("select job_id from outbox")).scalars().all()
    assert [str(each) for each in bells] == [job["id"]]


def problem(answer: Any, status: int, code: str) -> dict[str, Any]:
    assert (answer.status_code, answer.json().get("code")) == (status, code), answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = answer.json()
    assert body["status"] == status
    assert body["instance"] == f"urn:uuid:{answer.headers['x-request-id']}"
    return body


BAD_BODIES: list[tuple[dict[str, Any], str]] = [
    ({"tasks": ["nsclc", "lung"]}, "UNKNOWN_TASK"),
    ({"tasks": []}, "INVALID_REQUEST"),
    ({"tasks": ["nsclc", "nsclc"]}, "INVALID_REQUEST"),
    ({"priority": "now"}, "INVALID_REQUEST"),
    ({"unheard": 1}, "INVALID_REQUEST"),
    ({"accession": "x" * 65}, "INVALID_REQUEST"),
    ({"accession": "a\0b"}, "INVALID_REQUEST"),
    ({"accession": "a\nb"}, "INVALID_REQUEST"),
    ({"mpp": {"x": 0.5, "y": 0.5}}, "INVALID_REQUEST"),
    ({"mpp_reason": "scanner says so"}, "INVALID_REQUEST"),
    ({"mpp": {"x": 500, "y": 0.5}, "mpp_reason": "guess"}, "INVALID_REQUEST"),
    ({"mpp": {"x": -1, "y": 0.5}, "mpp_reason": "guess"}, "INVALID_REQUEST"),
    ({"slide": {"root": "slides"}}, "INVALID_REQUEST"),
    ({"slide": {"root": "nowhere", "path": "a.svs"}}, "INVALID_REQUEST"),
    ({"slide": {"root": "uploads", "path": "a.svs"}}, "INVALID_REQUEST"),
    ({"slide": {"root": "slides", "path": "../a.svs"}}, "PATH_OUTSIDE_ROOT"),
    ({"slide": {"root": "slides", "path": "/etc/passwd"}}, "PATH_OUTSIDE_ROOT"),
    ({"slide": {"root": "slides", "path": "link.svs"}}, "PATH_OUTSIDE_ROOT"),
    ({"slide": {"root": "slides", "path": "linked/a.svs"}}, "PATH_OUTSIDE_ROOT"),
    ({"slide": {"root": "slides", "path": "gone.svs"}}, "SLIDE_NOT_FOUND"),
    ({"slide": {"root": "slides", "path": "."}}, "SLIDE_NOT_FOUND"),
    ({"slide": {"root": "slides", "path": "x" * 1000}}, "SLIDE_NOT_FOUND"),
    ({"slide": {"id": str(uuid4())}}, "SLIDE_NOT_FOUND"),
    ({"slide": {"upload": str(uuid4())}}, "SLIDE_NOT_FOUND"),
    ({"slide": {"upload": "nothing"}}, "INVALID_REQUEST"),
]


@pytest.mark.parametrize(("changes", "code"), BAD_BODIES)
def test_bad_submits_are_typed_and_leave_nothing(steady: House, changes: dict[str, Any], code: str) -> None:
    for name, target in (("link.svs", "a.svs"), ("linked", ".")):
        (steady.slides / name).unlink(missing_ok=True)
        (steady.slides / name).symlink_to(steady.slides / target)
    body = problem(steady.submit(**changes), 422, code)
    assert "a.svs" not in json.dumps(body)
    with steady.engine.connect() as connection:
        assert connection.execute(text("select count(*) from jobs")).scalar() == 0


RAW = [
    (b'{"slide": ', 400, "INVALID_REQUEST"),
    (b'"\xff"', 400, "INVALID_REQUEST"),
    (b"[" * 60_000, 400, "INVALID_REQUEST"),
    (b"[]", 422, "INVALID_REQUEST"),
    (b"", 422, "INVALID_REQUEST"),
    (b'{"slide":{"root":"\\ud800","path":"a"},"tasks":["rcc"]}', 422, "INVALID_REQUEST"),
    (b'{"slide":{"root":"slides","path":"\\udcff.svs"},"tasks":["rcc"]}', 422, "INVALID_REQUEST"),
    (b'{"mpp":{"x":NaN,"y":1e400},"tasks":["rcc"]}', 422, "INVALID_REQUEST"),
    (b'{"a":' + b"9" * 5000 + b"}", 400, "INVALID_REQUEST"),
    (b" " * 70_000, 413, "TOO_LARGE"),
]


@pytest.mark.parametrize(("raw", "status", "code"), RAW)
def test_bodies_that_are_no_request(steady: House, raw: bytes, status: int, code: str) -> None:
    headers = {**steady.auth(), "Content-Type": "application/json"}
    problem(steady.client.post("/v1/jobs", content=raw, headers=headers), status, code)
    problem(steady.client.post("/v1/jobs", content=iter([raw]), headers=headers), status, code)


def test_another_content_type_is_refused(steady: House) -> None:
    headers = {**steady.auth(), "Content-Type": "text/plain"}
    problem(steady.client.post("/v1/jobs", content=b"{}", headers=headers), 415, "UNSUPPORTED_MEDIA")


@pytest.mark.parametrize(
    "value", ["", "Bearer", "Bearer x", "Basic eDp5", "Bearer xmag_00000000_" + "a" * 43]
)
def test_no_valid_key_is_401_even_before_the_body_is_read(steady: House, value: str) -> None:
    answer = steady.client.post("/v1/jobs", content=b"{", headers={"Authorization": value})
    problem(answer, 401, "UNAUTHENTICATED")
    assert answer.headers["www-authenticate"].startswith("Bearer")


def test_a_wrong_scope_is_403_and_named(steady: House) -> None:
    answer = steady.client.get("/v1/jobs", headers=steady.auth("submit"))
    assert "`read`" in problem(answer, 403, "FORBIDDEN")["detail"]


def test_same_key_same_body_same_job(house: House) -> None:
    headers = {**house.auth(), "Idempotency-Key": "order-1"}
    body = {"slide": {"root": "slides", "path": "a.svs"}, "tasks": ["nsclc"]}
    first = house.client.post("/v1/jobs", json=body, headers=headers)
    again = house.client.post("/v1/jobs", json={**body, "priority": "routine"}, headers=headers)
    assert (again.status_code, again.json()["id"]) == (202, first.json()["id"])
    (house.slides / "a.svs").unlink()
    moved = house.client.post("/v1/jobs", json=body, headers=headers)
    assert (moved.status_code, moved.json()["id"]) == (202, first.json()["id"])
    other = house.client.post("/v1/jobs", json={**body, "tasks": ["rcc"]}, headers=headers)
    problem(other, 422, "IDEMPOTENCY_MISMATCH")
    stranger = {**house.auth("other"), "Idempotency-Key": "order-1"}
    problem(house.client.post("/v1/jobs", json=body, headers=stranger), 422, "SLIDE_NOT_FOUND")


def test_a_race_with_one_idempotency_key_makes_one_job(house: House) -> None:
    headers = {**house.auth(), "Idempotency-Key": "race"}
    body = {"slide": {"root": "slides", "path": "a.svs"}, "tasks": ["isup"]}

    def send(_: int) -> Any:
        return house.client.post("/v1/jobs", json=body, headers=headers)

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(send, range(16)))
    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.json()["id"] for answer in answers}) == 1


def test_progress_ends_at_one(house: House) -> None:
    job = house.submit().json()
    assert job["progress"]["fraction"] == 0.0
    house.finish()
    ended = house.client.get(f"/v1/jobs/{job['id']}", headers=house.auth()).json()
    assert (ended["state"], ended["progress"]["fraction"]) == ("succeeded", 1.0)


@pytest.mark.parametrize("axes", [(0.05, 20), (0.25, 1.01), (21, 21), (0.01, 0.01)])
def test_an_absurd_resolution_is_refused(house: House, axes: tuple[float, float]) -> None:
    mpp = {"x": axes[0], "y": axes[1]}
    problem(house.submit(mpp=mpp, mpp_reason="a typing error"), 422, "INVALID_REQUEST")


def test_no_release_no_job(house: House) -> None:
    with house.engine.begin() as connection:
        connection.execute(text("update deployments set active = false where task = 'odx'"))
    problem(house.submit(tasks=["odx"]), 409, "MODEL_UNAVAILABLE")


def test_a_slide_is_submitted_again_by_id(house: House) -> None:
    slide = house.submit(accession="S26-1").json()["slide"]
    again = house.submit(slide={"id": slide}, tasks=["rcc"]).json()
    assert (again["slide"], again["accession"]) == (slide, "S26-1")
    put_right = house.submit(slide={"id": slide}, accession="S26-2").json()
    assert put_right["accession"] == "S26-2"
    assert put_right["slide"] != slide
    facts = house.client.get(f"/v1/slides/{slide}", headers=house.auth()).json()
    assert facts["accession"] == "S26-1"
    assert "a.svs" not in json.dumps(facts)


def test_pages_hold_each_job_once_and_filters_hold(house: House) -> None:
    made = [house.submit(tasks=[task], priority=p).json()["id"] for task, p in ORDERS]
    seen: list[str] = []
    cursor: str | None = None
    while True:
        query = {"limit": "2", **({"cursor": cursor} if cursor else {})}
        page = house.client.get("/v1/jobs", params=query, headers=house.auth()).json()
        seen += [job["id"] for job in page["jobs"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert seen == made[::-1]
    rcc = house.client.get("/v1/jobs", params={"task": "rcc"}, headers=house.auth()).json()["jobs"]
    assert [job["id"] for job in rcc] == [made[2], made[1]]
    stat = {"priority": "stat", "state": "queued", "created_after": "2020-01-01T00:00:00"}
    found = house.client.get("/v1/jobs", params=stat, headers=house.auth()).json()["jobs"]
    assert [job["id"] for job in found] == [made[0]]


ORDERS = [("nsclc", "stat"), ("rcc", "batch"), ("rcc", "routine"), ("odx", "batch"), ("isup", "routine")]


@pytest.mark.parametrize(
    "query",
    [
        {"limit": "201"},
        {"limit": "0"},
        {"state": "odd"},
        {"cursor": "AAAA"},
        {"accession": "\0"},
        {"task": "x"},
    ],
)
def test_bad_queries_are_422(steady: House, query: dict[str, str]) -> None:
    answer = steady.client.get("/v1/jobs", params=query, headers=steady.auth())
    assert answer.status_code == 422, answer.text


def test_cancel_and_retry(house: House) -> None:
    job = house.submit().json()
    where = f"/v1/jobs/{job['id']}"
    problem(house.client.post(f"{where}/retry", headers=house.auth()), 409, "CONFLICT")
    cancelled = house.client.delete(where, headers=house.auth())
    assert (cancelled.status_code, cancelled.json()["state"]) == (200, "cancelled")
    problem(house.client.delete(where, headers=house.auth()), 409, "CONFLICT")
    problem(house.client.get(f"{where}/result", headers=house.auth()), 409, "CONFLICT")
    again = house.client.post(f"{where}/retry", headers=house.auth())
    assert again.status_code == 202
    assert again.json()["retry_of"] == job["id"]
    assert again.headers["location"] == f"/v1/jobs/{again.json()['id']}"
    keyed = {**house.auth(), "Idempotency-Key": uuid4().hex}
    twice = [house.client.post(f"{where}/retry", headers=keyed).json()["id"] for _ in range(2)]
    assert twice[0] == twice[1] != again.json()["id"]
    problem(house.client.post(f"/v1/jobs/{uuid4()}/retry", headers=keyed), 404, "NOT_FOUND")
    for path in (f"/v1/jobs/{uuid4()}", f"/v1/jobs/{uuid4()}/result", f"/v1/jobs/{uuid4()}/events"):
        problem(house.client.get(path, headers=house.auth()), 404, "NOT_FOUND")


def test_a_failed_job_says_why(house: House) -> None:
    job = house.submit().json()
    house.fail(Code.MPP_MISSING, "the file does not say how large a pixel is: give mpp and mpp_reason")
    read = house.client.get(f"/v1/jobs/{job['id']}", headers=house.auth()).json()
    assert (read["state"], read["error"]["code"]) == ("failed", "MPP_MISSING")
    answer = house.client.get(f"/v1/jobs/{job['id']}/result", headers=house.auth())
    assert "MPP_MISSING" in problem(answer, 409, "CONFLICT")["detail"]
    assert "retry-after" not in answer.headers


def events(text: str) -> list[tuple[str, dict[str, Any]]]:
    found = []
    for block in text.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
        if "event" in fields:
            found.append((fields["event"], json.loads(fields["data"])))
    return found


def test_events_follow_a_job_to_its_end(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.events.POLL_SECONDS", 0.02)
    monkeypatch.setattr("service.events.KEEP_ALIVE_SECONDS", 0.01)
    job = house.submit().json()
    with ThreadPoolExecutor(1) as pool:
        stream = pool.submit(house.client.get, f"/v1/jobs/{job['id']}/events", headers=house.auth())
        while not house.app.state.gateway.streams:
            assert not stream.done()
        house.finish()
        answer = stream.result(timeout=20)
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.text.startswith("retry: ")
    told = events(answer.text)
    assert [told[0][0], told[-1][0]] == ["progress", "done"]
    assert [name for name, _ in told].count("done") == 1
    assert told[-1][1]["state"] == "succeeded"
    assert house.app.state.gateway.streams == 0


def test_a_stream_lives_only_so_long(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.events.POLL_SECONDS", 0.02)
    monkeypatch.setattr("service.events.LIFETIME_SECONDS", 0.1)
    monkeypatch.setattr("service.events.KEEP_ALIVE_SECONDS", 0.01)
    job = house.submit().json()
    answer = house.client.get(f"/v1/jobs/{job['id']}/events", headers=house.auth())
    assert [name for name, _ in events(answer.text)] == ["progress"]
    assert ": keep-alive" in answer.text


def test_streams_are_capped(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.events.MAX_STREAMS", 0)
    job = house.submit().json()
    answer = house.client.get(f"/v1/jobs/{job['id']}/events", headers=house.auth())
    problem(answer, 429, "TOO_MANY")
