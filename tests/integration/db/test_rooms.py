"""Releases, slides, uploads and keys."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from xmag.db import keys, releases, slides, uploads
from xmag.db.session import transaction
from xmag.errors import Code, ReleaseError, RequestError


def active(hospital: Any) -> dict[str, str]:
    with transaction(hospital.engine) as session:
        return releases.active(session)


def refusal(hospital: Any, call: Callable[[Any], object]) -> Code:
    with pytest.raises(RequestError) as refused, transaction(hospital.engine) as session:
        call(session)
    return refused.value.code


def test_rollback_walks_back_through_what_served(hospital: Any, make_head: Callable[..., str]) -> None:
    first = active(hospital)["nsclc"]
    second, third = make_head("nsclc", "second"), make_head("nsclc", "third")
    hospital.promote(third)
    assert active(hospital)["nsclc"] == third
    for expected in (second, first):
        with transaction(hospital.engine) as session:
            assert releases.rollback(session, "nsclc", "ann") == expected
        assert active(hospital)["nsclc"] == expected
    assert refusal(hospital, lambda s: releases.rollback(s, "nsclc", "ann")) == Code.CONFLICT
    assert refusal(hospital, lambda s: releases.rollback(s, "odx", "ann")) == Code.NOT_FOUND
    actions = [row["action"] for row in hospital.sql("SELECT action FROM audit ORDER BY seq DESC LIMIT 3")]
    assert actions == ["release.rolled_back", "release.rolled_back", "release.promoted"]


def test_only_a_fit_head_is_promoted(hospital: Any, orphan: str) -> None:
    encoder = next(row.digest for row in listing(hospital) if row.kind == "encoder")
    assert refusal(hospital, lambda s: releases.promote(s, "0" * 64, "ann")) == Code.NOT_FOUND
    assert refusal(hospital, lambda s: releases.promote(s, encoder, "ann")) == Code.CONFLICT
    assert refusal(hospital, lambda s: releases.promote(s, orphan, "ann")) == Code.CONFLICT
    head = active(hospital)["nsclc"]
    with transaction(hospital.engine) as session:
        releases.reject(session, head, "self-test")
    assert refusal(hospital, lambda s: releases.promote(s, head, "ann")) == Code.CONFLICT
    with transaction(hospital.engine) as session:
        assert releases.mark_verified(session, head)
        releases.promote(session, head, "ann")
    assert active(hospital)["nsclc"] == head


def test_a_rejected_head_gives_way_to_the_one_before(hospital: Any, make_head: Callable[..., str]) -> None:
    first = active(hospital)["nsclc"]
    second = make_head("nsclc", "second")
    with transaction(hospital.engine) as session:
        assert releases.mark_verified(session, second)
        assert not releases.mark_verified(session, second)
        releases.reject(session, second, "self-test failed")
        releases.reject(session, second, "again")
    assert active(hospital)["nsclc"] == first
    row = next(row for row in listing(hospital) if row.digest == second)
    assert (row.state, row.reason, row.active) == ("rejected", "self-test failed", False)
    with transaction(hospital.engine) as session:
        releases.reject(session, first, "too")
    assert "nsclc" not in active(hospital)


def test_a_rejected_encoder_takes_its_heads_along(hospital: Any) -> None:
    encoder = next(row.digest for row in listing(hospital) if row.kind == "encoder")
    with transaction(hospital.engine) as session:
        releases.reject(session, encoder, "damaged")
    assert active(hospital) == {}


def test_a_digest_that_is_not_the_manifests_is_refused(hospital: Any, manifest: Any) -> None:
    with pytest.raises(ReleaseError) as refused, transaction(hospital.engine) as session:
        releases.register(session, "0" * 64, manifest, "signer")
    assert refused.value.code == Code.MODEL_INTEGRITY


def test_racing_promotions_leave_one_head(hospital: Any, make_head: Callable[..., str]) -> None:
    heads = [make_head("nsclc", f"head{number}") for number in range(4)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(hospital.promote, heads * 3))
    assert active(hospital)["nsclc"] in heads
    assert len(hospital.sql("SELECT 1 FROM deployments WHERE active AND task = 'nsclc'")) == 1


def listing(hospital: Any) -> list[releases.ReleaseRow]:
    with transaction(hospital.engine) as session:
        return releases.listing(session)


def create(hospital: Any, size: int = 10, principal: str = "ann", most: int = 3) -> UUID:
    with transaction(hospital.engine) as session:
        return uploads.create(session, principal, size, None, 100, most)


def row(hospital: Any, upload_id: UUID) -> uploads.UploadRow:
    with transaction(hospital.engine) as session:
        found = uploads.get(session, upload_id)
    assert found is not None
    return found


def test_a_persons_mpp_does_not_hide_the_files(hospital: Any, answer: Callable[[Any], Any]) -> None:
    hospital.job()
    read = answer(hospital.take()).slide
    slide_id = hospital.add()
    for seen in (read, replace(read, mpp_source="request")):
        with transaction(hospital.engine) as session:
            slides.describe(session, slide_id, seen)
    with transaction(hospital.engine) as session:
        stored = slides.get(session, slide_id)
    assert stored is not None
    assert (stored.mpp, stored.vendor) == (read.mpp, read.vendor)


def test_an_upload_grows_from_its_offset_and_is_stored_when_complete(hospital: Any) -> None:
    upload = create(hospital)
    assert refusal(hospital, lambda s: uploads.finalize(s, upload, 100)) == Code.OFFSET_MISMATCH
    with transaction(hospital.engine) as session:
        uploads.advance(session, upload, 0, 4, 100)
    for old, new in ((0, 4), (5, 10), (4, 11)):
        assert refusal(hospital, lambda s, o=old, n=new: uploads.advance(s, upload, o, n, 100)) == (
            Code.OFFSET_MISMATCH
        )
    assert row(hospital, upload).offset_bytes == 4
    with transaction(hospital.engine) as session:
        uploads.advance(session, upload, 4, 10, 100)
        assert uploads.finalize(session, upload, 100).state == "finalizing"
    assert refusal(hospital, lambda s: uploads.advance(s, upload, 10, 10, 100)) == Code.CONFLICT
    with transaction(hospital.engine) as session:
        assert uploads.finalize(session, upload, 100).state == "finalizing"
        uploads.finish(session, upload, "a" * 64)
    assert (row(hospital, upload).state, row(hospital, upload).sha256) == ("stored", "a" * 64)
    for call in (
        lambda s: uploads.delete(s, upload),
        lambda s: uploads.reject(s, upload, "late"),
        lambda s: uploads.finish(s, upload, "b" * 64),
        lambda s: uploads.finalize(s, upload, 100),
    ):
        assert refusal(hospital, call) == Code.CONFLICT
    assert refusal(hospital, lambda s: uploads.delete(s, UUID(int=0))) == Code.NOT_FOUND


def test_unfinished_uploads_are_capped_for_each_principal(hospital: Any) -> None:
    with ThreadPoolExecutor(8) as pool:
        results = [pool.submit(create, hospital) for _ in range(8)]
    refused = [future.exception() for future in results if future.exception()]
    assert len(refused) == 5
    assert {error.code for error in refused if isinstance(error, RequestError)} == {Code.TOO_MANY}
    create(hospital, principal="bob")
    made = hospital.sql("SELECT id FROM uploads WHERE principal = 'ann'")[0]["id"]
    with transaction(hospital.engine) as session:
        uploads.reject(session, made, "checksum")
    create(hospital)


def test_silent_uploads_expire_and_are_gone(hospital: Any) -> None:
    silent, alive, deleted = (create(hospital) for _ in range(3))
    hospital.sql("UPDATE uploads SET expires_at = clock_timestamp() WHERE id = :id", id=silent)
    with transaction(hospital.engine) as session:
        uploads.delete(session, deleted, "ann")
        assert uploads.expire(session) == [silent]
        assert uploads.expire(session) == []
    assert row(hospital, alive).state == "open"
    for gone in (silent, deleted):
        assert refusal(hospital, lambda s, g=gone: uploads.advance(s, g, 0, 1, 100)) == Code.GONE


def test_a_key_opens_until_it_is_revoked_or_expires(hospital: Any) -> None:
    soon = datetime.now(UTC) + timedelta(hours=1)
    with transaction(hospital.engine) as session:
        lasting = keys.create(session, "lis", ["submit", "read"])
        passing = keys.create(session, "lis", ["read"], soon)
    with transaction(hospital.engine) as session:
        assert keys.verify(session, lasting) == keys.Principal("lis", frozenset({"submit", "read"}))
        assert keys.verify(session, passing) is not None
    hospital.sql("UPDATE api_keys SET expires_at = clock_timestamp() WHERE expires_at IS NOT NULL")
    prefix = lasting.split("_")[1]
    with transaction(hospital.engine) as session:
        assert keys.verify(session, passing) is None
        keys.revoke(session, prefix)
        assert keys.verify(session, lasting) is None
    assert refusal(hospital, lambda s: keys.revoke(s, prefix)) == Code.NOT_FOUND
    with transaction(hospital.engine) as session:
        assert {row.prefix: row.revoked_at is not None for row in keys.listing(session)}[prefix]


def test_a_wrong_token_opens_nothing_and_no_secret_is_stored(hospital: Any) -> None:
    with transaction(hospital.engine) as session:
        token = keys.create(session, "lis", ["read"])
    secret = token.split("_", 2)[2]
    flipped = token[:-2] + ("A" if token[-2] != "A" else "B") + token[-1]
    unknown = f"xmag_{'0' * 8}_{secret}"
    with transaction(hospital.engine) as session:
        for wrong in ("", token[:-1], token + "A", flipped, unknown, token.upper(), f"{token}\n", "xmag__"):
            assert keys.verify(session, wrong) is None
    stored = hospital.sql("SELECT to_jsonb(k)::text AS t FROM api_keys k") + hospital.sql(
        "SELECT to_jsonb(a)::text AS t FROM audit a"
    )
    assert not any(secret in found["t"] for found in stored)


def test_the_use_of_a_key_is_noted_at_most_once_a_minute(hospital: Any) -> None:
    with transaction(hospital.engine) as session:
        token = keys.create(session, "lis", ["read"])
    seen = []
    for back in (0, 0, 61):
        hospital.sql("UPDATE api_keys SET last_used_at = last_used_at - make_interval(secs => :s)", s=back)
        with transaction(hospital.engine) as session:
            assert keys.verify(session, token)
        seen.append(hospital.sql("SELECT last_used_at FROM api_keys")[0]["last_used_at"])
    assert seen[0] == seen[1] < seen[2]


@pytest.mark.parametrize(("name", "scopes"), [("", ["read"]), ("lis", []), ("lis", ["root"])])
def test_a_key_without_name_or_known_scope_is_refused(hospital: Any, name: str, scopes: list[str]) -> None:
    assert refusal(hospital, lambda s: keys.create(s, name, scopes)) == Code.INVALID_REQUEST
