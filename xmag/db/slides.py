"""Slides as files at a place, and what a worker or viewer learned of them."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, get_args
from uuid import UUID

from sqlalchemy import select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from xmag.db.tables import Case, Slide
from xmag.errors import Code, RequestError, SlideError
from xmag.slide.info import SlideInfo
from xmag.slide.location import Fingerprint
from xmag.units import Mpp, MppXY

Source = Literal["path", "upload"]
Tag = Literal["accession", "specimen", "block", "stain", "scanner"]
TAGS: tuple[Tag, ...] = get_args(Tag)
"""What a caller may say of a slide; patient data."""


@dataclass(frozen=True, slots=True)
class NewSlide:
    """A file as a caller named it; ``relative`` lies beneath the root named ``root``."""

    root: str
    relative: str
    fingerprint: Fingerprint
    source: Source
    sha256: str | None = None
    accession: str | None = None
    specimen: str | None = None
    block: str | None = None
    stain: str | None = None
    scanner: str | None = None


@dataclass(frozen=True, slots=True)
class SlideRow:
    """A stored slide; ``mpp`` is the file's own, never a person's."""

    id: UUID
    root: str
    relative: str
    fingerprint: Fingerprint
    source: Source
    sha256: str | None
    vendor: str | None
    width: int | None
    height: int | None
    mpp: MppXY | None
    accession: str | None
    specimen: str | None
    block: str | None
    stain: str | None
    scanner: str | None
    created_at: datetime


def add(session: Session, new: NewSlide) -> UUID:
    """The id of this version of the file, stored once; blanks of an earlier naming are filled in.

    Raises RequestError CONFLICT if the file is known with another accession, specimen, block, stain or
    scanner: results must not move from one patient to another.
    """
    case_id = _case(session, new.accession)
    seen = new.fingerprint
    file = (Slide.root, Slide.relative, Slide.size, Slide.mtime_ns, Slide.inode)
    values = (new.root, new.relative, seen.size, seen.mtime_ns, str(seen.inode))
    row = dict(zip((column.key for column in file), values, strict=True))
    session.execute(insert(Slide).values(**row, source=new.source).on_conflict_do_nothing())
    same = (column == value for column, value in zip(file, values, strict=True))
    slide_id = session.scalars(select(Slide.id).where(*same).with_for_update(key_share=True)).one()
    _fill(session, slide_id, new, case_id)
    return slide_id


def get(session: Session, slide_id: UUID) -> SlideRow | None:
    """A slide by id."""
    found = (
        select(Slide, Case.accession).outerjoin(Case, Case.id == Slide.case_id).where(Slide.id == slide_id)
    )
    pair = session.execute(found, execution_options={"populate_existing": True}).one_or_none()
    return pair and view(pair[0], pair[1])


def describe(session: Session, slide_id: UUID, info: SlideInfo) -> None:
    """Keep what the opened file says; a person's mpp hides the file's, which then stays as it was known.

    Raises SlideError SLIDE_CHANGED if its sha256 is not the known one.
    """
    known = session.scalars(select(Slide.sha256).where(Slide.id == slide_id)).one()
    if known and info.sha256 and known != info.sha256:
        raise SlideError(Code.SLIDE_CHANGED, "the slide's bytes are not those first seen: submit it again")
    facts: dict[str, Any] = {"vendor": info.vendor, "width": info.width, "height": info.height}
    facts["sha256"] = info.sha256 or known
    if info.mpp is not None and info.mpp_source == "file":
        facts |= {"mpp_x": info.mpp.x, "mpp_y": info.mpp.y}
    session.execute(update(Slide).where(Slide.id == slide_id).values(facts))


def view(slide: Slide, accession: str | None) -> SlideRow:
    """The frozen form of a row."""
    mpp = None
    if slide.mpp_x is not None and slide.mpp_y is not None:
        mpp = MppXY(Mpp(slide.mpp_x), Mpp(slide.mpp_y))
    return SlideRow(
        id=slide.id,
        root=slide.root,
        relative=slide.relative,
        fingerprint=Fingerprint(slide.size, slide.mtime_ns, int(slide.inode)),
        source="upload" if slide.source == "upload" else "path",
        sha256=slide.sha256,
        vendor=slide.vendor,
        width=slide.width,
        height=slide.height,
        mpp=mpp,
        accession=accession,
        specimen=slide.specimen,
        block=slide.block,
        stain=slide.stain,
        scanner=slide.scanner,
        created_at=slide.created_at,
    )


def _case(session: Session, accession: str | None) -> UUID | None:
    if accession is None:
        return None
    session.execute(insert(Case).values(accession=accession).on_conflict_do_nothing())
    return session.scalars(select(Case.id).where(Case.accession == accession)).one()


def _fill(session: Session, slide_id: UUID, new: NewSlide, case_id: UUID | None) -> None:
    stored = get(session, slide_id)
    changes: dict[str, Any] = {}
    for name in (*TAGS, "sha256"):
        given, known = getattr(new, name), getattr(stored, name)
        if given is not None and known is not None and given != known:
            raise RequestError(
                Code.CONFLICT, f"this file is already known with another {name}: give the same value or none"
            )
        if given is not None and known is None:
            changes |= {"case_id": case_id} if name == "accession" else {name: given}
    if changes:
        session.execute(update(Slide).where(Slide.id == slide_id).values(changes))
