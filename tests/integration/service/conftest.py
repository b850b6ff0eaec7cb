"""A gateway on a real database, with keys, releases, a root with a slide-like file, and a worker's hand."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from fastapi import FastAPI
from pydantic import SecretStr
from sqlalchemy import Engine

from service.app import create_app
from xmag.config import Decode, Settings, Uploads
from xmag.db import attempts, keys, releases
from xmag.db.results import NewPrediction, NewResult
from xmag.db.session import connect, transaction
from xmag.heatmap import Overlay
from xmag.manifest import TASK_LABELS, AbmilSpec, EncoderManifest, HeadManifest, Licence, VitSpec
from xmag.registry import public_key_text, publish
from xmag.slide.grid import TileGrid
from xmag.slide.info import LevelInfo, SlideInfo
from xmag.store import put_overlay
from xmag.units import Level0Px, Mpp, MppXY

with warnings.catch_warnings():
    # a service-only install has httpx and not the httpx2 that starlette prefers; both do
    warnings.simplefilter("ignore")
    from starlette.testclient import TestClient

SCOPES = ("submit", "read", "releases", "admin")


@dataclass(frozen=True)
class House:
    """Everything a test of the API needs."""

    app: FastAPI
    client: TestClient
    engine: Engine
    settings: Settings
    tokens: dict[str, str]
    slides: Path
    signing: Ed25519PrivateKey

    def auth(self, *scopes: str) -> dict[str, str]:
        """Headers with the key of one scope (default: submit and read)."""
        return {"Authorization": f"Bearer {self.tokens[' '.join(scopes) or 'submit read']}"}

    def submit(self, **changes: Any) -> Any:
        """Submit the slide that lies in the root."""
        body = {"slide": {"root": "slides", "path": "a.svs"}, "tasks": ["nsclc"], **changes}
        return self.client.post("/v1/jobs", json=body, headers=self.auth())

    def finish(self) -> UUID:
        """Do a worker's part: claim the next job and commit a result."""
        with transaction(self.engine) as session:
            claim = attempts.claim_next(session, "worker", self.settings.lease)
            assert claim is not None
            assert attempts.succeed(session, claim, made_up(self.settings, claim.heads))
            return claim.job_id

    def fail(self, code: Any, detail: str) -> UUID:
        """Do a worker's part: claim the next job and fail it."""
        with transaction(self.engine) as session:
            claim = attempts.claim_next(session, "worker", self.settings.lease)
            assert claim is not None
            assert attempts.fail(session, claim, code, detail)
            return claim.job_id


def made_up(settings: Settings, heads: dict[str, str]) -> NewResult:
    """A result as a worker would commit it, its overlay stored first."""
    overlay = put_overlay(settings.store_dir, made_up_overlay(heads))
    predictions = [prediction(task, digest) for task, digest in heads.items()]
    levels = (LevelInfo(896, 448, 1.0),)
    info = SlideInfo(
        "a" * 64, Level0Px(896), Level0Px(448), MppXY(Mpp(2.0), Mpp(2.0)), "file", "aperio", levels
    )
    document = {
        "slide": {
            "sha256": info.sha256,
            "width": 896,
            "height": 448,
            "mpp": {"x": 2.0, "y": 2.0},
            "mpp_source": "file",
            "vendor": "aperio",
        },
        "tiles": 6,
        "predictions": [
            {
                "task": each.task,
                "outcome": each.outcome,
                "label": each.label,
                "probabilities": each.probabilities,
                "release": each.release,
                "notice": "demo weights: not for diagnosis",
            }
            for each in predictions
        ],
        "provenance": {"device": "cpu"},
    }
    return NewResult(
        slide=info,
        tiles=6,
        predictions=predictions,
        overlays=dict.fromkeys(heads, overlay),
        document=document,
    )


def prediction(task: str, digest: str) -> NewPrediction:
    labels = TASK_LABELS[task]
    return NewPrediction(task, "predicted", labels[0], {each: 1 / len(labels) for each in labels}, digest)


def made_up_overlay(tasks: Any) -> Overlay:
    cells = np.array([[0, 0], [1, 0], [2, 0], [3, 0], [0, 1], [1, 1]], np.int32)
    grid = TileGrid(cells, np.ones(6, np.float32), (224.0, 224.0), 224, 4, 2)
    attention = np.arange(1, 7, dtype=np.float32) / 21
    evidence = {task: np.linspace(-1, 1, 6 * len(TASK_LABELS[task]), dtype=np.float32) for task in tasks}
    shaped = {task: rows.reshape(6, -1) for task, rows in evidence.items()}
    return Overlay(grid, 896, 448, dict.fromkeys(tasks, attention), shaped)


def put_releases(engine: Engine, settings: Settings, key: Ed25519PrivateKey, version: str = "1") -> list[str]:
    """Publish and register an encoder and the four heads; digests of the heads by task order."""
    encoder = _published(settings, key, _encoder(version))
    heads = [_published(settings, key, _head(task, encoder[0], version)) for task in TASK_LABELS]
    with transaction(engine) as session:
        for digest, manifest in (encoder, *heads):
            releases.register(session, digest, manifest, "test")
    return [digest for digest, _ in heads]


def _published(settings: Settings, key: Ed25519PrivateKey, manifest: Any) -> tuple[str, Any]:
    return publish(settings.releases_dir, manifest, WEIGHTS, SELF_TEST, "card", key), manifest


WEIGHTS, SELF_TEST = b"weights", b"self test"


def _base(name: str, version: str) -> dict[str, Any]:
    return {
        "name": name,
        "created": datetime(2026, 1, 1, tzinfo=UTC),
        "code_version": version,
        "licence": Licence(name="demo", permitted_use="demo", notice="demo weights: not for diagnosis"),
        "weights_sha256": sha256(WEIGHTS).hexdigest(),
        "self_test_sha256": sha256(SELF_TEST).hexdigest(),
    }


def _encoder(version: str) -> EncoderManifest:
    return EncoderManifest(**_base("enc", version), architecture=VitSpec(embed_dim=192, depth=2, num_heads=3))


def _head(task: Any, encoder: str, version: str) -> HeadManifest:
    labels = TASK_LABELS[task]
    spec = AbmilSpec(in_dim=192, classes=len(labels))
    return HeadManifest(**_base(task, version), task=task, labels=labels, encoder=encoder, architecture=spec)


def make_settings(database: str, folder: Path, signing: Ed25519PrivateKey) -> Settings:
    slides = folder / "slides"
    slides.mkdir(parents=True)
    (slides / "a.svs").write_bytes(b"not really a slide")
    return Settings(
        database_url=SecretStr(database),
        data=folder / "data",
        slide_roots={"slides": slides},
        trusted_keys=(public_key_text(signing),),
        uploads=Uploads(max_bytes=10_000_000, max_open=4, reserve_bytes=0),
        decode=Decode(viewers=1),
    )


@contextmanager
def open_house(settings: Settings, signing: Ed25519PrivateKey) -> Iterator[House]:
    engine = connect(settings.database_url.get_secret_value(), pool=10)
    heads = put_releases(engine, settings, signing)
    with transaction(engine) as session:
        for digest in heads:
            releases.promote(session, digest, "test")
        tokens = {scope: keys.create(session, f"{scope}-key", [scope]) for scope in SCOPES}
        tokens["submit read"] = keys.create(session, "lis", ["submit", "read"])
        tokens["other"] = keys.create(session, "other", ["submit", "read"])
    app = create_app(settings)
    with TestClient(app) as client:
        yield House(app, client, engine, settings, tokens, settings.slide_roots["slides"], signing)
    engine.dispose()


@pytest.fixture
def house(database: str, tmp_path: Path) -> Iterator[House]:
    """A fresh one."""
    signing = Ed25519PrivateKey.generate()
    with open_house(make_settings(database, tmp_path, signing), signing) as made:
        yield made


@pytest.fixture(scope="module")
def steady(new_database: Callable[[], str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """One for a whole module, for tests that leave nothing behind."""
    signing = Ed25519PrivateKey.generate()
    folder = tmp_path_factory.mktemp("steady")
    with open_house(make_settings(new_database(), folder, signing), signing) as made:
        yield made
