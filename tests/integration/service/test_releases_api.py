"""Listing, promoting and rolling back releases, their files verified first."""

import json
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tests.integration.service.conftest import SELF_TEST, House, put_releases

TASKS = ["nsclc", "rcc", "isup", "odx"]


def post(house: House, path: str, **more: Any) -> Any:
    return house.client.post(f"/v1/releases{path}", headers=house.auth("releases"), **more)


def test_the_listing_names_licence_and_what_serves(house: House) -> None:
    body = house.client.get("/v1/releases", headers=house.auth()).json()
    assert sorted(body["active"]) == sorted(TASKS)
    heads = [each for each in body["releases"] if each["kind"] == "head"]
    assert {each["task"]: each["digest"] for each in heads if each["active"]} == body["active"]
    assert {each["licence"]["notice"] for each in body["releases"]} == {"demo weights: not for diagnosis"}
    [encoder] = [each for each in body["releases"] if each["kind"] == "encoder"]
    assert (encoder["active"], encoder["labels"], heads[0]["encoder"]) == (True, None, encoder["digest"])


def test_promote_roll_back_and_pin(house: House) -> None:
    old = house.submit().json()["releases"]["nsclc"]
    new = put_releases(house.engine, house.settings, house.signing, "2")[0]
    answer = post(house, f"/{new}/promote")
    assert (answer.status_code, answer.json()) == (200, {"task": "nsclc", "release": new})
    assert house.submit().json()["releases"]["nsclc"] == new
    back = post(house, "/rollback", json={"task": "nsclc"})
    assert (back.status_code, back.json()) == (200, {"task": "nsclc", "release": old})
    nothing = post(house, "/rollback", json={"task": "nsclc"})
    assert (nothing.status_code, nothing.json()["code"]) == (409, "CONFLICT")
    unknown = post(house, "/rollback", json={"task": "lung"})
    assert unknown.status_code == 422


def test_damaged_or_foreign_files_are_never_promoted(house: House) -> None:
    new = put_releases(house.engine, house.settings, house.signing, "2")
    weights = house.settings.releases_dir / new[0] / "self_test.safetensors"
    weights.write_bytes(SELF_TEST + b"!")
    answer = post(house, f"/{new[0]}/promote")
    assert (answer.status_code, answer.json()["code"]) == (409, "MODEL_INTEGRITY")
    foreign = put_releases(house.engine, house.settings, Ed25519PrivateKey.generate(), "3")
    answer = post(house, f"/{foreign[1]}/promote")
    assert (answer.status_code, answer.json()["code"]) == (409, "MODEL_INTEGRITY")
    active = house.client.get("/v1/releases", headers=house.auth()).json()["active"]
    assert not {new[0], foreign[1]} & set(active.values())


def test_encoders_and_unknown_digests(house: House) -> None:
    body = house.client.get("/v1/releases", headers=house.auth()).json()
    [encoder] = [each["digest"] for each in body["releases"] if each["kind"] == "encoder"]
    answer = post(house, f"/{encoder}/promote")
    assert (answer.status_code, answer.json()["code"]) == (409, "CONFLICT")
    assert post(house, f"/{'0' * 64}/promote").status_code == 404
    assert post(house, "/..%2f..%2fetc/promote").status_code in (404, 422)
    assert "/work" not in json.dumps(body)
