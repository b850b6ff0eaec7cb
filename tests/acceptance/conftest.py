"""A running service on small published releases, and slides to give it."""

import hashlib
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import psycopg
import pytest
import torch

from cli import local
from cli.client import TERMINAL, Client
from cli.stack import Stack, running_stack
from cli.weights import promote_head
from xmag.manifest import TASK_LABELS, AbmilSpec, EncoderManifest, HeadManifest, Licence, VitSpec
from xmag.nn.bundle import encoder_payload, head_payload
from xmag.nn.mil import ABMIL
from xmag.nn.vit import build_vit
from xmag.registry import publish
from xmag.slide.synthetic.recipe import Recipe
from xmag.slide.synthetic.write import write_slide

NOTICE = "demo weights: not for diagnosis"
LICENCE = Licence(name="test", permitted_use="demo", notice=NOTICE)
QUICK = VitSpec(embed_dim=48, depth=1, num_heads=2)
SLOW = VitSpec(embed_dim=384, depth=20, num_heads=6)
FAST_LEASE = {
    "XMAG_LEASE__SECONDS": "3",
    "XMAG_LEASE__BACKOFF_SECONDS": "0.1",
    "XMAG_LEASE__POLL_SECONDS": "0.3",
    "XMAG_WORKER__BATCH": "2",
    "XMAG_WORKER__DEVICE": "cpu",
}
UNHURRIED = {"XMAG_WORKER__PRECISION": "fp32"}
"""A slide has to take long enough to be seen under way; the demo's test runs at full speed."""


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def base(name: str, weights: bytes, self_test: bytes) -> dict:
    return {
        "name": name,
        "created": datetime(2026, 1, 1, tzinfo=UTC),
        "code_version": "test",
        "licence": LICENCE,
        "weights_sha256": sha256(weights),
        "self_test_sha256": sha256(self_test),
    }


def publish_heads(data: Path, spec: VitSpec, tasks: tuple[str, ...]) -> dict[str, str]:
    """Seeded random weights, published like any other; task -> digest."""
    key = local.signing_key(data)
    torch.manual_seed(3)
    vit = build_vit(spec).eval()
    weights, self_test = encoder_payload(vit)
    manifest = EncoderManifest(architecture=spec, **base("test-encoder", weights, self_test))
    encoder = publish(data / "releases", manifest, weights, self_test, "test", key)
    heads = {}
    for task in tasks:
        labels = TASK_LABELS[task]
        abmil = AbmilSpec(in_dim=spec.embed_dim, hidden_dim=16, attention_dim=8, classes=len(labels))
        weights, self_test = head_payload(ABMIL(abmil).eval())
        fields = base(f"test-{task}", weights, self_test)
        head = HeadManifest(task=task, labels=labels, encoder=encoder, architecture=abmil, **fields)
        heads[task] = publish(data / "releases", head, weights, self_test, "test", key)
    return heads


class Service:
    """A stack with a client and a look into its database."""

    def __init__(self, stack: Stack, client: Client, master: Path) -> None:
        self.stack = stack
        self.data = stack.settings.data
        self.client = client
        self._master = master

    def slide(self) -> str:
        """A new file in the root `slides`: the same pixels, other bytes, so that nothing is reused."""
        path = self.data / "slides" / f"{self._master.stem}-{time.time_ns()}{self._master.suffix}"
        path.write_bytes(self._master.read_bytes() + str(path.name).encode())
        return path.name

    def submit(self, task: str, slide: str | None = None) -> str:
        body = {"slide": {"root": "slides", "path": slide or self.slide()}, "tasks": [task]}
        return self.client.submit(body)["id"]

    def ended(self, *jobs: str, seconds: float = 180) -> list[dict]:
        return [self.client.wait(job, seconds, lambda *_: None) for job in jobs]

    def until(self, job: str, condition: Callable[[dict], bool], seconds: float = 60) -> dict:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            seen = self.client.job(job)
            if condition(seen):
                return seen
            assert seen["state"] not in TERMINAL, seen
            time.sleep(0.02)
        raise AssertionError(f"still {seen['state']} {seen['progress']}")

    def query(self, statement: str, *values: object) -> list[tuple]:
        url = self.stack.settings.database_url.get_secret_value().replace("+psycopg", "")
        with psycopg.connect(url, connect_timeout=5) as connection:
            return connection.execute(statement, values).fetchall()


def encoding(job: dict) -> bool:
    return job["state"] == "running" and job["progress"]["stage"] == "encode" and job["progress"]["done"] > 0


@contextmanager
def service(data: Path, slide: Path, heads: tuple[tuple[VitSpec, str], ...], **options) -> Iterator[Service]:
    environment = FAST_LEASE | UNHURRIED | options.pop("environment", {})
    with running_stack(data, port=0, environment=environment, **options) as stack:
        for spec, task in heads:
            promote_head(local.local_settings(data), publish_heads(data, spec, (task,))[task])
        with Client.to(stack.url, stack.api_key) as client:
            yield Service(stack, client, slide)


@pytest.fixture(scope="session")
def master_slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("master")
    return write_slide(folder / "lung.svs", Recipe("nsclc", "LUAD", seed=1))


@pytest.fixture(scope="session")
def xmag(tmp_path_factory: pytest.TempPathFactory, master_slide: Path) -> Iterator[Service]:
    """The task `nsclc` is read quickly, `rcc` slowly (some seconds for each slide)."""
    data = tmp_path_factory.mktemp("xmag") / "data"
    with service(data, master_slide, ((QUICK, "nsclc"), (SLOW, "rcc"))) as running:
        yield running
