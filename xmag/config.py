"""Frozen settings: the only reader of the environment (prefix ``XMAG_``, nested groups with ``__``)."""

import os
from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

from xmag.errors import Code, PlaceError

MIB = 1024**2
GIB = 1024**3
CLIENT_NAMES = frozenset({"XMAG_URL", "XMAG_API_KEY"})
"""Read by the command line's client; no setting of a program."""


Precision = Literal["fp32", "bf16", "int8"]
"""How exactly a network is computed; fp32 is the reference."""


Route = Literal["auto", "openslide"]
"""How pixels may be read: auto takes JPEG tiles straight from the file where it can."""


class Group(BaseModel):
    """A nested group; unknown names are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Lease(Group):
    """How long a worker may be silent, and how often a job may be lost."""

    seconds: float = Field(30.0, gt=0, description="on the database's clock")
    max_lost: int = Field(3, ge=1, description="lost attempts before a job is dead")
    backoff_seconds: float = Field(1.0, ge=0, description="doubles with every lost attempt")
    rering_seconds: float = Field(60.0, gt=0, description="a queued job's bell is rung again after this")
    poll_seconds: float = Field(1.0, gt=0, description="an idle worker looks into the queue itself")
    queue_seconds: float = Field(7 * 86400.0, gt=0, description="QUEUE_TIMEOUT after this")


class Decode(Group):
    """Limits of the process that opens slides."""

    memory_bytes: int = Field(4 * GIB, gt=0, description="address space of one decoder process")
    timeout_seconds: float = Field(60.0, gt=0, description="without a sign of progress")
    max_pixels: int = Field(200_000_000_000, gt=0, description="of level 0")
    max_side: int = Field(400_000, gt=0, description="pixels of level 0 along one axis")
    max_file_bytes: int = Field(64 * GIB, gt=0, description="of the slide file")
    max_tiles: int = Field(100_000, gt=0, description="tiles with tissue of one slide")
    route: Route = Field("auto", description="auto: JPEG tiles straight from the file; openslide: never")
    viewers: int = Field(2, ge=1, description="decoder processes of a gateway")


class Uploads(Group):
    """Caps of resumable uploads."""

    max_bytes: int = Field(32 * GIB, gt=0, description="of one upload")
    max_open: int = Field(64, ge=1, description="unfinished uploads of one key")
    expire_seconds: float = Field(86400.0, gt=0, description="of silence")
    reserve_bytes: int = Field(GIB, ge=0, description="free space that uploads must leave")


class Worker(Group):
    """One worker process."""

    slots: int = Field(0, ge=0, description="slides in flight, beside one urgent; 0 = by device")
    ahead_bytes: int = Field(64 * MIB, gt=0, description="tiles of a slide that may wait for the engine")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto: cuda when there, else cpu")
    batch: int = Field(0, ge=0, description="tiles for each forward pass; 0 = by device")
    threads: int = Field(0, ge=0, description="of torch and OpenVINO; 0 = all cores")
    precision: Literal["auto", "fp32", "bf16", "int8"] = Field(
        "auto", description="auto, fp32, bf16, int8; checked against fp32, auto: bf16 where there is"
    )
    job_seconds: float = Field(3600.0, gt=0, description="TIME_LIMIT of one attempt")


class Settings(BaseSettings):
    """All settings of all programs."""

    model_config = SettingsConfigDict(
        env_prefix="XMAG_", env_nested_delimiter="__", frozen=True, extra="forbid"
    )

    env: Literal["development", "production"] = Field(
        "development", description="production refuses placeholder secrets"
    )
    database_url: SecretStr = Field(SecretStr(""), description="postgresql+psycopg://user:password@host/name")
    redis_url: SecretStr = Field(SecretStr(""), description="redis://:password@host/0; carries bells only")
    data: Path = Field(Path(".xmag"), description="uploads, releases, store; shared by all programs")
    slide_roots: dict[str, Path] = Field(default_factory=dict, description="name -> allow-listed folder")
    trusted_keys: tuple[str, ...] = Field((), description="base64 ed25519 public keys that may sign releases")
    host: str = Field("127.0.0.1", description="address that the gateway and metrics listen on")
    port: int = Field(8080, ge=0, le=65535, description="of the gateway")
    metrics_port: int = Field(0, ge=0, le=65535, description="of a worker or dispatcher; 0 = none")
    lease: Lease = Lease()
    decode: Decode = Decode()
    uploads: Uploads = Uploads()
    worker: Worker = Worker()

    @property
    def uploads_dir(self) -> Path:
        """Where uploads lie, named by their id."""
        return self.data / "uploads"

    @property
    def releases_dir(self) -> Path:
        """Where release folders lie, named by their digest."""
        return self.data / "releases"

    @property
    def store_dir(self) -> Path:
        """Where embeddings and overlays lie."""
        return self.data / "store"

    @model_validator(mode="after")
    def _no_default_secret(self) -> Self:
        placeholder = ("changeme", "change-me", "password", "secret", "xmag:xmag@")
        url = self.database_url.get_secret_value() + self.redis_url.get_secret_value()
        if self.env == "production" and any(word in url for word in placeholder):
            raise ValueError("a placeholder secret is set in production: choose real passwords")
        return self


def load_settings(**overrides: object) -> Settings:
    """Read the environment once; raises PlaceError(SETUP) that names the wrong variable."""
    unknown = sorted(_unknown_names())
    if unknown:
        raise PlaceError(Code.SETUP, f"unknown setting {unknown[0]}: see docs/settings.md for the names")
    try:
        return Settings(**overrides)  # type: ignore[arg-type]
    except SettingsError as error:
        raise PlaceError(Code.SETUP, f"a setting of several values must be JSON: {error}") from None
    except ValidationError as error:
        first = error.errors(include_input=False)[0]
        name = "XMAG_" + "__".join(str(part).upper() for part in first["loc"])
        if first["type"] == "extra_forbidden":
            raise PlaceError(
                Code.SETUP, f"unknown setting {name}: see docs/settings.md for the names"
            ) from None
        raise PlaceError(Code.SETUP, f"setting {name}: {first['msg']}") from None


def _unknown_names() -> list[str]:
    known = {f"XMAG_{name.upper()}" for name in Settings.model_fields} | CLIENT_NAMES
    given = [name for name in os.environ if name.startswith("XMAG_")]
    return [name for name in given if name.split("__")[0] not in known]
