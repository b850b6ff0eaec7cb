"""Slides as files at a place, and what a worker or viewer learned of them."""

import json
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from typing import Any, Literal, get_args
from uuid import UUID

from sqlalchemy import select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from xmag.db.tables import Case, Slide
from xmag.errors import Code, SlideError
from xmag.slide.info import SlideInfo
from xmag.slide.location import Fingerprint
from xmag.units import Level0Px, Mpp, MppXY

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
    """The id of this version of the file under this naming, stored once.

    Another accession, specimen, block, stain or scanner for the same file is another slide: a wrong one is
    put right by submitting again, and no result ever moves from one patient to another.
    """
    seen = new.fingerprint
    row: dict[str, Any] = {
        "naming": _naming(new),
        "case_id": _case(session, new.accession),
        "root": new.root,
        "relative": new.relative,
        "size": seen.size,
        "mtime_ns": seen.mtime_ns,
        "inode": str(seen.inode),
        "source": new.source,
        "sha256": new.sha256,
        **{name: getattr(new, name) for name in TAGS if name != "accession"},
    }
    session.execute(insert(Slide).values(row).on_conflict_do_nothing(index_elements=[Slide.naming]))
    return session.scalars(select(Slide.id).where(Slide.naming == row["naming"])).one()


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


def known(row: SlideRow) -> SlideInfo | None:
    """What an analysis found in the row's very file, but for its levels; None before the first one."""
    if row.sha256 is None or row.vendor is None or row.width is None or row.height is None:
        return None
    return SlideInfo(
        sha256=row.sha256,
        width=Level0Px(row.width),
        height=Level0Px(row.height),
        mpp=row.mpp,
        mpp_source=None if row.mpp is None else "file",
        vendor=row.vendor,
        levels=(),
    )


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


def _naming(new: NewSlide) -> str:
    seen = new.fingerprint
    file = (new.root, new.relative, seen.size, seen.mtime_ns, seen.inode)
    return sha256(json.dumps([*file, *(getattr(new, name) for name in TAGS)]).encode()).hexdigest()
