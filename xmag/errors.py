"""One tree of errors with a closed set of codes.

    XmagError
    ├── SlideError           SLIDE_NOT_FOUND  SLIDE_UNSUPPORTED  SLIDE_CORRUPT  SLIDE_TOO_LARGE
    │                        SLIDE_CHANGED  MPP_MISSING  NO_TISSUE  DECODE_CRASH  DECODE_TIMEOUT
    ├── ReleaseError         MODEL_UNAVAILABLE  MODEL_INTEGRITY
    ├── InferenceError       INFER_OOM  INFER_NAN
    ├── JobError             TIME_LIMIT  QUEUE_TIMEOUT  INTERNAL
    ├── RequestError         INVALID_REQUEST  UNKNOWN_TASK  NOT_FOUND  PATH_OUTSIDE_ROOT  CONFLICT
    │                        IDEMPOTENCY_MISMATCH  UNAUTHENTICATED  FORBIDDEN  GONE  TOO_LARGE
    │                        OFFSET_MISMATCH  CHECKSUM_MISMATCH  LOCKED  UNSUPPORTED_MEDIA  PRECONDITION
    │                        TOO_MANY  BUSY
    └── PlaceError           DATABASE_UNAVAILABLE  DISK_FULL  SETUP

A job that fails carries one code of the first four groups. Details are written for people and never hold a
path, a file name or an identifier of a patient.
"""

from enum import StrEnum


class Code(StrEnum):
    """Every code that leaves the system."""

    SLIDE_NOT_FOUND = "SLIDE_NOT_FOUND"
    SLIDE_UNSUPPORTED = "SLIDE_UNSUPPORTED"
    SLIDE_CORRUPT = "SLIDE_CORRUPT"
    SLIDE_TOO_LARGE = "SLIDE_TOO_LARGE"
    SLIDE_CHANGED = "SLIDE_CHANGED"
    MPP_MISSING = "MPP_MISSING"
    NO_TISSUE = "NO_TISSUE"
    DECODE_CRASH = "DECODE_CRASH"
    DECODE_TIMEOUT = "DECODE_TIMEOUT"

    MODEL_UNAVAILABLE = "MODEL_UNAVAILABLE"
    MODEL_INTEGRITY = "MODEL_INTEGRITY"

    INFER_OOM = "INFER_OOM"
    INFER_NAN = "INFER_NAN"

    TIME_LIMIT = "TIME_LIMIT"
    QUEUE_TIMEOUT = "QUEUE_TIMEOUT"
    INTERNAL = "INTERNAL"

    INVALID_REQUEST = "INVALID_REQUEST"
    UNKNOWN_TASK = "UNKNOWN_TASK"
    NOT_FOUND = "NOT_FOUND"
    PATH_OUTSIDE_ROOT = "PATH_OUTSIDE_ROOT"
    CONFLICT = "CONFLICT"
    IDEMPOTENCY_MISMATCH = "IDEMPOTENCY_MISMATCH"
    UNAUTHENTICATED = "UNAUTHENTICATED"
    FORBIDDEN = "FORBIDDEN"
    GONE = "GONE"
    TOO_LARGE = "TOO_LARGE"
    OFFSET_MISMATCH = "OFFSET_MISMATCH"
    CHECKSUM_MISMATCH = "CHECKSUM_MISMATCH"
    LOCKED = "LOCKED"
    UNSUPPORTED_MEDIA = "UNSUPPORTED_MEDIA"
    PRECONDITION = "PRECONDITION"
    TOO_MANY = "TOO_MANY"
    BUSY = "BUSY"

    DATABASE_UNAVAILABLE = "DATABASE_UNAVAILABLE"
    DISK_FULL = "DISK_FULL"
    SETUP = "SETUP"


JOB_CODES: frozenset[Code] = frozenset(list(Code)[: list(Code).index(Code.INTERNAL) + 1])
"""The codes a failed job may carry; the database checks the same set."""


class XmagError(Exception):
    """Root of all errors raised on purpose: a closed code and a sentence for people."""

    def __init__(self, code: Code, detail: str) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.detail = detail

    def __reduce__(self) -> tuple[type["XmagError"], tuple[Code, str]]:
        return (type(self), (self.code, self.detail))


class SlideError(XmagError):
    """The slide cannot be read as it is."""


class ReleaseError(XmagError):
    """A release is missing, damaged, or does not fit its encoder."""


class InferenceError(XmagError):
    """The network failed on this slide."""


class JobError(XmagError):
    """The job ended for a reason that is neither the slide's nor the network's."""


class RequestError(XmagError):
    """The caller asked for something that cannot be done as asked."""


class PlaceError(XmagError):
    """The place the program runs in (database, disk, set-up) does not hold up."""
