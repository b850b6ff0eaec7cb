"""What the API takes and gives. Requests are closed: an unknown member is an error."""

from dataclasses import asdict
from datetime import datetime
from typing import Annotated, Any, Literal, Self
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, model_validator

from xmag.db.jobs import JobView
from xmag.db.releases import ReleaseRow
from xmag.db.slides import SlideRow
from xmag.manifest import TASK_LABELS, Licence, Task
from xmag.units import MAX_ANISOTROPY, MPP_RANGE, MppXY
from xmag.units import Mpp as MppUnit

Priority = Literal["stat", "routine", "batch"]
State = Literal["queued", "running", "succeeded", "failed", "cancelled", "dead"]
TERMINAL = frozenset({"succeeded", "failed", "cancelled", "dead"})

Text = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[^\x00-\x1f\x7f]+$")]
Reason = Annotated[str, Field(min_length=3, max_length=200, pattern=r"^[^\x00-\x1f\x7f]+$")]
RelativePath = Annotated[str, Field(min_length=1, max_length=1024, pattern=r"^[^\x00-\x1f\x7f]+$")]
Axis = Annotated[float, Field(ge=MPP_RANGE[0], le=MPP_RANGE[1], allow_inf_nan=False)]


class Closed(BaseModel):
    """Unknown members are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class SlideByPath(Closed):
    """A file beneath an allow-listed root."""

    root: Text = Field(examples=["slides"])
    path: RelativePath = Field(examples=["a.svs"], description="relative to the root; no links, no `..`")


class SlideById(Closed):
    """A slide that the service knows."""

    id: UUID


class SlideByUpload(Closed):
    """A finished upload: the last segment of its Location."""

    upload: UUID


class MppGiven(Closed):
    """Micrometres for each level-0 pixel."""

    x: Axis = Field(examples=[0.25])
    y: Axis = Field(examples=[0.25])


class JobRequest(Closed):
    """One slide, the tasks wanted, and how urgent it is."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"slide": {"root": "slides", "path": "a.svs"}, "tasks": ["nsclc"], "priority": "routine"}
            ]
        }
    )

    slide: SlideByPath | SlideById | SlideByUpload
    tasks: Annotated[list[Task], Field(min_length=1, max_length=8, json_schema_extra={"uniqueItems": True})]
    priority: Priority = "routine"
    accession: Text | None = None
    specimen: Text | None = None
    block: Text | None = None
    stain: Text | None = None
    scanner: Text | None = None
    mpp: MppGiven | None = Field(None, description="only with `mpp_reason`; wins over the file")
    mpp_reason: Reason | None = Field(None, description="kept beside every result")

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if (self.mpp is None) != (self.mpp_reason is None):
            raise ValueError("`mpp` and `mpp_reason` go together")
        if self.resolution is not None and not self.resolution.plausible():
            raise ValueError(f"the axes of `mpp` differ by more than {MAX_ANISOTROPY:g} times")
        if len(set(self.tasks)) != len(self.tasks):
            raise ValueError("a task is named twice")
        return self

    @property
    def resolution(self) -> MppXY | None:
        """The mpp given, as units."""
        return None if self.mpp is None else MppXY(MppUnit(self.mpp.x), MppUnit(self.mpp.y))


class Progress(BaseModel):
    """How far a job is: tiles or steps of its stage, and the share of the whole."""

    stage: str | None = Field(examples=["encode"])
    done: int = Field(examples=[231])
    total: int = Field(examples=[554])
    fraction: float = Field(examples=[0.46], ge=0, le=1, description="of the whole job; 1 when it succeeded")


class JobError(BaseModel):
    """Why a job did not succeed."""

    code: str = Field(examples=["MPP_MISSING"])
    detail: str


class Job(BaseModel):
    """A job as it stands now."""

    id: UUID
    state: State
    priority: Priority
    tasks: list[Task]
    slide: UUID
    progress: Progress
    error: JobError | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    attempts: int
    retry_of: UUID | None
    cancel_requested: bool
    releases: dict[str, str] = Field(description="task -> digest, pinned at submit")
    accession: str | None
    specimen: str | None
    block: str | None
    stain: str | None
    scanner: str | None

    @classmethod
    def of(cls, view: JobView) -> Self:
        """From the database's view."""
        return cls.model_validate({**asdict(view), "slide": view.slide_id})


class JobPage(BaseModel):
    """Newest first."""

    jobs: list[Job]
    next_cursor: str | None = Field(description="give it back as `cursor`; null on the last page")


class Mpp(BaseModel):
    """Micrometres for each level-0 pixel."""

    x: float = Field(examples=[0.25])
    y: float = Field(examples=[0.25])


class SlideFacts(BaseModel):
    """What may be told of a slide; facts of the file are null until it was first opened."""

    id: UUID
    source: Literal["path", "upload"]
    sha256: str | None
    vendor: str | None = Field(examples=["aperio"])
    width: int | None
    height: int | None
    mpp: Mpp | None = Field(description="from the file")
    accession: str | None
    specimen: str | None
    block: str | None
    stain: str | None
    scanner: str | None
    created_at: datetime

    @classmethod
    def of(cls, row: SlideRow) -> Self:
        """From the database's view: neither root nor path."""
        return cls.model_validate(asdict(row))


class Prediction(BaseModel):
    """One task's answer."""

    model_config = ConfigDict(extra="allow")

    task: Task
    outcome: Literal["predicted", "abstained", "out_of_distribution", "qc_failed", "not_applicable"]
    label: str | None = Field(examples=["LUAD"])
    probabilities: dict[str, float] = Field(examples=[{"LUAD": 0.93, "LUSC": 0.07}])
    release: str = Field(description="digest of the head")
    notice: str = Field("", examples=["demo weights: not for diagnosis"])


class Result(BaseModel):
    """What `xmag analyze --json` prints for the same slide."""

    model_config = ConfigDict(extra="allow")

    slide: dict[str, Any] = Field(
        examples=[
            {
                "sha256": "0" * 64,
                "width": 3584,
                "height": 3584,
                "mpp": {"x": 0.5, "y": 0.5},
                "mpp_source": "file",
                "vendor": "aperio",
            }
        ]
    )
    tiles: int
    predictions: list[Prediction]
    provenance: dict[str, Any]


class Release(BaseModel):
    """One immutable version of an encoder or head."""

    digest: str
    kind: Literal["encoder", "head"]
    name: str
    task: Task | None
    labels: list[str] | None
    encoder: str | None = Field(description="of a head: digest of the encoder it reads")
    licence: Licence
    metrics: dict[str, Any]
    state: str = Field(examples=["verified"])
    reason: str | None
    active: bool = Field(description="a head: it serves its task; an encoder: an active head reads it")
    signer: str
    created_at: datetime

    @classmethod
    def of(cls, row: ReleaseRow, *, active: bool) -> Self:
        """From the database's view."""
        manifest = {name: row.manifest.get(name) for name in ("labels", "licence", "metrics")}
        return cls.model_validate({**asdict(row), **manifest, "active": active})


class Releases(BaseModel):
    """Newest first, and the head that serves each task."""

    releases: list[Release]
    active: dict[str, str] = Field(description="task -> digest of the head that serves it")


class RollbackRequest(Closed):
    """The task to return to the head that served it before."""

    task: Task


class Deployed(BaseModel):
    """The head that serves a task now."""

    task: Task
    release: str


class Check(BaseModel):
    """One named check."""

    ok: bool
    required: bool
    detail: str


class Readiness(BaseModel):
    """Whether this gateway can take work."""

    ready: bool
    checks: dict[str, Check]


def class_index(task: str, label: str) -> int | None:
    """The position of a label among its task's classes."""
    labels = TASK_LABELS[task]
    return labels.index(label) if label in labels else None
