"""A client of the REST service: uploads that go on where they stopped, jobs, results."""

import base64
import hashlib
import json
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx

from xmag.embedded.process import write_private
from xmag.errors import Code, PlaceError, RequestError

CHUNK = 8 * 1024**2
TRIES = 8
PATCH_TIMEOUT = httpx.Timeout(60, read=900)
"""The last bytes are answered once the service has hashed the whole file."""
TERMINAL = frozenset({"succeeded", "failed", "cancelled", "dead"})
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Client:
    """Calls one service with one key; a service that is away for a moment is asked again."""

    http: httpx.Client

    @classmethod
    def to(cls, url: str, api_key: str) -> Self:
        """A client for a base URL."""
        headers = {"Authorization": f"Bearer {api_key}"}
        return cls(httpx.Client(base_url=url, headers=headers, timeout=60))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.http.close()

    def submit(self, body: dict[str, Any], idempotency_key: str | None = None) -> dict[str, Any]:
        """POST a job; the same key never makes a second one, and a call of its own gets a key of its own."""
        headers = {"Idempotency-Key": idempotency_key or secrets.token_hex(16)}
        return dict(self._call("POST", "/v1/jobs", json=body, headers=headers).json())

    def job(self, job_id: str) -> dict[str, Any]:
        """A job as it stands."""
        return dict(self._call("GET", f"/v1/jobs/{job_id}").json())

    def result(self, job_id: str) -> dict[str, Any]:
        """The result of a job that succeeded."""
        return dict(self._call("GET", f"/v1/jobs/{job_id}/result").json())

    def wait(self, job_id: str, seconds: float, report: Progress) -> dict[str, Any]:
        """Poll until the job ends; raises PlaceError SETUP when it does not in time."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            job = self.job(job_id)
            if job["state"] in TERMINAL:
                return job
            progress = job["progress"]
            report(progress["stage"] or job["state"], progress["done"], progress["total"])
            time.sleep(0.3)
        raise PlaceError(Code.SETUP, "the job has not ended in time: look at the worker and its log")

    def upload(self, slide: Path, resume: Path, report: Progress) -> str:
        """Upload a file by tus; the id of the upload. ``resume`` remembers where an earlier try stopped."""
        known = _Resume(resume, slide)
        location = known.location if self._offset(known.location) is not None else self._create(slide)
        known.keep(location)
        with slide.open("rb") as file:
            self._send(location, file, slide.stat().st_size, report)
        known.forget()
        return location.rstrip("/").rsplit("/", 1)[-1]

    def _create(self, slide: Path) -> str:
        """Only the suffix of the file's name leaves this machine."""
        with slide.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        fields = {"filename": "slide" + slide.suffix.lower(), "sha256": sha256}
        pairs = (f"{name} {base64.b64encode(value.encode()).decode()}" for name, value in fields.items())
        headers = {"Upload-Length": str(slide.stat().st_size), "Upload-Metadata": ",".join(pairs)}
        return self._call("POST", "/v1/uploads", headers=_tus(headers)).headers["Location"]

    def _send(self, location: str, file: Any, size: int, report: Progress) -> None:
        offset, failures = self._offset(location) or 0, 0
        while offset < size:
            report("upload", offset, size)
            file.seek(offset)
            headers = {"Upload-Offset": str(offset), "Content-Type": "application/offset+octet-stream"}
            try:
                reply = self.http.patch(
                    location, content=file.read(CHUNK), headers=_tus(headers), timeout=PATCH_TIMEOUT
                )
            except httpx.TransportError:
                reply = None
            if reply is not None and reply.is_success:
                offset, failures = int(reply.headers["Upload-Offset"]), 0
                continue
            failures += 1
            if failures == TRIES or (reply is not None and not _passing(reply)):
                raise _refusal(reply)
            time.sleep(min(5.0, 0.2 * 2**failures))
            kept = self._offset(location) or 0
            offset, failures = kept, 0 if kept > offset else failures

    def _offset(self, location: str) -> int | None:
        """Acknowledged bytes, None when the service does not know the upload."""
        if not location:
            return None
        try:
            reply = self._call("HEAD", location, headers=_tus({}))
        except RequestError:
            return None
        return int(reply.headers["Upload-Offset"])

    def _call(self, method: str, path: str, **options: Any) -> httpx.Response:
        reply: httpx.Response | None = None
        for failure in range(TRIES):
            try:
                reply = self.http.request(method, path, **options)
            except httpx.TransportError:
                reply = None
            if reply is not None and reply.is_success:
                return reply
            if reply is not None and not _passing(reply):
                break
            time.sleep(min(5.0, 0.1 * 2**failure))
        raise _refusal(reply)


class _Resume:
    """Which upload belongs to a file, kept between runs; the file is known by a digest, not by its name."""

    def __init__(self, path: Path, slide: Path) -> None:
        status = slide.stat()
        identity = f"{slide.resolve()}:{status.st_size}:{status.st_mtime_ns}"
        self._path = path
        self._name = hashlib.sha256(identity.encode()).hexdigest()
        self._known: dict[str, str] = json.loads(path.read_text()) if path.exists() else {}

    @property
    def location(self) -> str:
        return self._known.get(self._name, "")

    def keep(self, location: str) -> None:
        self._known[self._name] = location
        self._save()

    def forget(self) -> None:
        self._known.pop(self._name, None)
        self._save()

    def _save(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        write_private(self._path, json.dumps(self._known))


def _tus(headers: dict[str, str]) -> dict[str, str]:
    return {"Tus-Resumable": "1.0.0", **headers}


def _passing(reply: httpx.Response) -> bool:
    """Whether the same call may succeed in a moment."""
    again = reply.request.method == "PATCH" and reply.status_code in (409, 423, 460)
    return again or reply.status_code in (429, 503)


def _refusal(reply: httpx.Response | None) -> PlaceError | RequestError:
    if reply is None:
        return PlaceError(Code.SETUP, "the service does not answer: is `xmag up` running, is the URL right?")
    try:
        problem = reply.json()
        return RequestError(Code(problem["code"]), str(problem["detail"]))
    except (ValueError, KeyError, TypeError):
        return RequestError(Code.INVALID_REQUEST, f"the service answered {reply.status_code}")
