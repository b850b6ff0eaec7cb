"""Scopes of every route, patient data, headers, health, and a database that is away."""

import logging
import re
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import product
from typing import Any
from uuid import uuid4

import pytest
from fastapi.routing import iter_route_contexts
from pydantic import SecretStr
from sqlalchemy import make_url, text

from service.app import create_app
from tests.integration.service.conftest import SCOPES, House, TestClient
from tests.integration.service.test_uploads_api import TUS, begin, send
from xmag.config import Settings
from xmag.db import keys
from xmag.db.session import transaction

NEEDED = {
    ("POST", "/v1/jobs"): "submit",
    ("GET", "/v1/jobs"): "read",
    ("GET", "/v1/jobs/{job_id}"): "read",
    ("GET", "/v1/jobs/{job_id}/events"): "read",
    ("DELETE", "/v1/jobs/{job_id}"): "submit",
    ("POST", "/v1/jobs/{job_id}/retry"): "submit",
    ("GET", "/v1/jobs/{job_id}/result"): "read",
    ("GET", "/v1/jobs/{job_id}/heatmap/{task}.png"): "read",
    ("GET", "/v1/jobs/{job_id}/attention/{task}.geojson"): "read",
    ("OPTIONS", "/v1/uploads"): "open",
    ("POST", "/v1/uploads"): "submit",
    ("HEAD", "/v1/uploads/{upload_id}"): "submit",
    ("PATCH", "/v1/uploads/{upload_id}"): "submit",
    ("DELETE", "/v1/uploads/{upload_id}"): "submit",
    ("GET", "/v1/slides/{slide_id}"): "read",
    ("GET", "/v1/slides/{slide_id}/thumbnail"): "read",
    ("GET", "/v1/slides/{slide_id}/dzi/slide.dzi"): "read",
    ("GET", "/v1/slides/{slide_id}/dzi/slide_files/{level}/{column}_{row}.{suffix}"): "read",
    ("GET", "/v1/releases"): "read",
    ("POST", "/v1/releases/{digest}/promote"): "releases",
    ("POST", "/v1/releases/rollback"): "releases",
    ("GET", "/healthz"): "open",
    ("GET", "/readyz"): "open",
    ("GET", "/metrics"): "open",
}
"""Who may do what, written a second time, by hand."""

OPENAPI = {("GET", "/openapi.json"), ("HEAD", "/openapi.json")}


def routes_of(house: House) -> set[tuple[str, str]]:
    found = set()
    for context in iter_route_contexts(house.app.routes):
        found |= {(method, context.path) for method in context.methods or ()}
    return found


def address(template: str) -> str:
    values = {"task": "nsclc", "digest": "0" * 64, "level": "1", "column": "0", "row": "0", "suffix": "jpg"}
    return re.sub(r"\{(\w+)\}", lambda found: values.get(found[1], str(uuid4())), template)


def test_no_route_is_missing_from_the_matrix(steady: House) -> None:
    assert routes_of(steady) == set(NEEDED) | OPENAPI


@pytest.mark.parametrize(("method", "path"), sorted(NEEDED))
def test_every_route_wants_its_scope_and_no_other(steady: House, method: str, path: str) -> None:
    needed = NEEDED[method, path]
    anonymous = steady.client.request(method, address(path))
    assert (anonymous.status_code == 401) == (needed != "open")
    for scope in SCOPES:
        answer = steady.client.request(method, address(path), headers=steady.auth(scope))
        allowed = needed in ("open", scope) or scope == "admin"
        assert (answer.status_code == 403) == (not allowed), (scope, answer.status_code)
        assert answer.status_code != 401


def test_revoked_keys_stop_working(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    assert house.client.get("/v1/jobs", headers=house.auth("read")).status_code == 200
    with transaction(house.engine) as session:
        prefix = house.tokens["read"].split("_")[1]
        keys.revoke(session, prefix)
    monkeypatch.setattr("service.gateway.time.monotonic", lambda: time.perf_counter() + 1e9)
    assert house.client.get("/v1/jobs", headers=house.auth("read")).status_code == 401


def test_headers_of_every_answer(steady: House) -> None:
    for path in ("/healthz", "/v1/jobs", "/nowhere", "/openapi.json"):
        answer = steady.client.get(path, headers={"X-Request-Id": "forged\tid"})
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert answer.headers["cache-control"] == "no-store"
        assert re.fullmatch(r"[0-9a-f-]{36}", answer.headers["x-request-id"])
    assert steady.client.get("/nowhere").json()["code"] == "NOT_FOUND"
    wrong = steady.client.put("/v1/jobs")
    assert (wrong.status_code, wrong.headers["content-type"]) == (405, "application/problem+json")
    assert steady.client.get("/docs").status_code == 404


CANARIES = ("CANARY-ACC-7731", "Canary^Patient", "canary_folder", "canary-metadata")


def test_patient_data_stays_out_of_logs_metrics_and_errors(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    folder = house.slides / "canary_folder"
    folder.mkdir()
    (folder / "Canary^Patient.svs").write_bytes(b"no slide")
    good = {"root": "slides", "path": "canary_folder/Canary^Patient.svs"}
    job = house.submit(slide=good, accession=CANARIES[0]).json()
    assert job["accession"] == CANARIES[0]
    told = [
        house.submit(slide={**good, "path": "canary_folder/../Canary^Patient"}, accession=CANARIES[0]),
        house.submit(slide={**good, "path": "canary_folder/Canary^Patient2.svs"}),
        house.submit(slide=good, accession=CANARIES[0] + "\n"),
        house.submit(slide=good, accession=[CANARIES[0]], canary_folder=1),
        house.submit(slide=good, tasks=["Canary^Patient"]),
        house.client.get("/v1/jobs/canary_folder", headers=house.auth()),
        house.client.get("/v1/jobs", params={"state": "canary_folder"}, headers=house.auth()),
        house.client.get("/canary_folder/x", headers=house.auth()),
        house.client.get(f"/v1/slides/{job['slide']}/thumbnail", headers=house.auth()),
        begin(house, filename="Canary^Patient.pdf", note="canary-metadata"),
        begin(house, filename="Canary^Patient.svs"),
    ]
    where = told[-1].headers["location"]
    told.append(send(house, where, 1, b"canary-metadata"))
    assert [answer.status_code for answer in told if answer.is_success] == [201]
    house.client.get("/v1/jobs", params={"accession": CANARIES[0]}, headers=house.auth())
    metrics = house.client.get("/metrics").text
    assert 'route="unmatched"' in metrics
    logged = "\n".join(mine(caplog))
    assert "/v1/jobs/{job_id}" in logged
    allowed_loc = re.compile(r'"loc":\["body","canary_folder"\]')
    for canary in CANARIES:
        assert canary not in metrics
        assert canary not in logged
        for answer in told:
            assert canary not in allowed_loc.sub("", answer.text), answer.text


def mine(caplog: pytest.LogCaptureFixture) -> list[str]:
    """All records but those of the test's own HTTP client."""
    return [record.getMessage() for record in caplog.records if not record.name.startswith("http")]


def test_the_last_resort_tells_and_logs_no_message(
    house: House, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise ValueError("accession CANARY-ACC-7731")

    monkeypatch.setattr("service.routes.jobs.jobs.page", fail)
    answer = house.client.get("/v1/jobs", headers=house.auth())
    assert (answer.status_code, answer.json()["code"]) == (500, "INTERNAL")
    assert "CANARY" not in answer.text + "".join(mine(caplog)) + caplog.text
    assert answer.headers["x-request-id"] in caplog.text
    assert "ValueError" in caplog.text


def test_health_readiness_and_numbers(house: House) -> None:
    house.submit(priority="stat")
    assert house.client.get("/healthz").json() == {"status": "ok"}
    ready = house.client.get("/readyz")
    assert (ready.status_code, ready.json()["ready"]) == (200, True)
    numbers = house.client.get("/metrics").text
    assert 'xmag_jobs{priority="stat",state="queued"} 1.0' in numbers
    assert "xmag_database_up 1.0" in numbers
    assert 'xmag_http_requests_total{method="POST",route="/v1/jobs",status="202"} 1.0' in numbers
    (house.slides / "a.svs").unlink()
    house.slides.rename(house.slides.with_name("unmounted"))
    unready = house.client.get("/readyz")
    assert (unready.status_code, unready.json()["checks"]["slide_roots"]["ok"]) == (503, False)
    assert str(house.slides) not in unready.text


PATIENCE = 10.0
"""Seconds: far above the gateway's own limit, for a crowded machine; far below a hanging server."""


def away(settings: Settings, port: int) -> Settings:
    url = make_url(settings.database_url.get_secret_value()).set(port=port)
    secret = SecretStr(url.render_as_string(hide_password=False))
    return settings.model_copy(update={"database_url": secret})


@contextmanager
def silent_port() -> Iterator[int]:
    """Accepts connections and never says a word, as a stopped server does."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


@pytest.fixture(params=["refused", "silent"])
def down(request: pytest.FixtureRequest, steady: House) -> Iterator[TestClient]:
    with silent_port() as port:
        settings = away(steady.settings, port if request.param == "silent" else 1)
        with TestClient(create_app(settings)) as client:
            yield client


def test_without_the_database_every_route_is_503_in_time(steady: House, down: TestClient) -> None:
    kind = {"Content-Type": "application/json"}
    body = b'{"slide":{"root":"slides","path":"a.svs"},"tasks":["nsclc"]}'
    routes = sorted(set(NEEDED) - {("GET", "/healthz"), ("OPTIONS", "/v1/uploads")})

    def ask(route: tuple[str, str]) -> tuple[Any, float]:
        started = time.monotonic()
        headers = {**steady.auth(), **TUS, **(kind if route[0] == "POST" else {})}
        answer = down.request(route[0], address(route[1]), content=body, headers=headers)
        return answer, time.monotonic() - started

    with ThreadPoolExecutor(8) as pool:
        answers = dict(zip(routes, pool.map(ask, routes), strict=True))
    metrics, _ = answers.pop(("GET", "/metrics"))
    assert "xmag_database_up 0.0" in metrics.text
    for route, (answer, seconds) in answers.items():
        assert (answer.status_code, int(answer.headers["retry-after"]) > 0) == (503, True), route
        assert seconds < PATIENCE, route
    assert down.get("/healthz").status_code == 200


def test_it_recovers_by_itself(house: House) -> None:
    assert house.submit().status_code == 202
    name = make_url(house.settings.database_url.get_secret_value()).database
    with house.engine.connect() as connection:
        connection.execute(
            text(
                "select pg_terminate_backend(pid) from pg_stat_activity where datname = :n "
                "and pid <> pg_backend_pid()"
            ),
            {"n": name},
        )
    assert [house.submit().status_code for _ in range(3)] == [202, 202, 202]


def test_a_restart_finds_everything(house: House) -> None:
    job = house.submit().json()
    with TestClient(create_app(house.settings)) as fresh:
        assert fresh.get(f"/v1/jobs/{job['id']}", headers=house.auth()).json() == job


def test_a_root_may_not_be_named_uploads(house: House) -> None:
    wrong = house.settings.model_copy(update={"slide_roots": {"uploads": house.slides}})
    with pytest.raises(Exception, match="reserved"):
        create_app(wrong)


def documented(house: House) -> Any:
    return house.client.get("/openapi.json").json()


def test_the_openapi_document_is_whole(steady: House) -> None:
    document = documented(steady)
    assert document["components"]["securitySchemes"]["key"]["scheme"] == "bearer"
    listed = {(m.upper(), path) for path, ops in document["paths"].items() for m in ops}
    assert listed == set(NEEDED)
    for (method, path), needed in NEEDED.items():
        operation = document["paths"][path][method.lower()]
        assert operation["tags"]
        assert operation["summary"]
        assert operation["x-scope"] == needed
        assert ("security" in operation) == (needed != "open")
        if needed != "open":
            assert {"401", "403", "500", "503"} <= set(operation["responses"])
    assert document["components"]["schemas"]["JobRequest"]["examples"]


@pytest.mark.parametrize(("one", "other"), list(product(["lis", "stranger"], repeat=2)))
def test_idempotency_keys_belong_to_their_caller(house: House, one: str, other: str) -> None:
    tokens = {"lis": house.auth(), "stranger": house.auth("other")}
    body = {"slide": {"root": "slides", "path": "a.svs"}, "tasks": ["nsclc"]}
    ids = [
        house.client.post("/v1/jobs", json=body, headers={**tokens[who], "Idempotency-Key": "k"}).json()["id"]
        for who in (one, other)
    ]
    assert (ids[0] == ids[1]) == (one == other)
