"""`xmag submit`: one slide over REST, from the file to the printed result."""

import json
import sys
import uuid
from pathlib import Path
from typing import Any

import click

from cli import local
from cli.analyze import parse_mpp, table
from cli.client import Client
from xmag.config import load_settings
from xmag.errors import Code, PlaceError, SlideError, XmagError


@click.command()
@click.argument("slide", type=click.Path(path_type=Path))
@click.option("--tasks", default="all", show_default=True, help="all, or names with commas.")
@click.option("--priority", type=click.Choice(["stat", "routine", "batch"]), default="routine")
@click.option("--accession", default=None)
@click.option("--mpp", default=None, metavar="X[,Y]", help="µm for each pixel; wins over the file.")
@click.option("--mpp-reason", default=None, help="Why; kept beside the result.")
@click.option("--wait", is_flag=True, help="Wait for the end and print the result.")
@click.option("--timeout", default=3600.0, show_default=True, help="Seconds to wait.")
@click.option("--json", "as_json", is_flag=True, help="Print one object.")
@click.option("--url", envvar="XMAG_URL", default=None, help="[default: that of `xmag up`]")
@click.option("--api-key", envvar="XMAG_API_KEY", default=None, help="[default: that of `xmag up`]")
@local.data_option
def submit(
    wait: bool, timeout: float, as_json: bool, url: str | None, api_key: str | None, **given: Any
) -> None:
    """Submit SLIDE; it is uploaded unless it lies beneath a folder that the service reads itself."""
    data = (given["data"] or load_settings().data).absolute()
    job: dict[str, Any] = {}
    try:
        with Client.to(url or _read(data / "url"), api_key or _read(data / "api-key")) as client:
            remote = url is not None
            body = request_body(client, given["slide"], data, given["tasks"], _fields(given), remote=remote)
            job = client.submit(body, str(uuid.uuid4()))
            if wait:
                job = client.wait(job["id"], timeout, _show)
            document = client.result(job["id"]) if job["state"] == "succeeded" else job
    except XmagError as error:
        if not as_json:
            raise
        click.echo(_failure({"code": error.code, "detail": error.detail}, job))
        sys.exit(1)
    failed = wait and job["state"] != "succeeded"
    click.echo(_text(job, document, as_json), err=failed and not as_json)
    sys.exit(1 if failed else 0)


def request_body(
    client: Client, slide: Path, data: Path, tasks: str, fields: dict[str, Any], *, remote: bool = False
) -> dict[str, Any]:
    """The body of POST /v1/jobs; uploads the slide when no root holds it. Raises SLIDE_NOT_FOUND."""
    path = slide.expanduser().resolve()
    if not path.is_file():
        raise SlideError(Code.SLIDE_NOT_FOUND, "no slide at this path")
    place = None if remote else _beneath_root(path, data)
    where = place or {"upload": client.upload(path, data / "uploads-resume.json", _show)}
    return {"slide": where, "tasks": list(local.parse_tasks(tasks)), **fields}


def _fields(given: dict[str, Any]) -> dict[str, Any]:
    fields = {name: given[name] for name in ("priority", "accession") if given[name]}
    override = parse_mpp(given["mpp"], given["mpp_reason"])
    if override:
        fields |= {"mpp": {"x": override.mpp.x, "y": override.mpp.y}, "mpp_reason": override.reason}
    return fields


def _beneath_root(path: Path, data: Path) -> dict[str, str] | None:
    roots = data / "roots.json"
    known = json.loads(roots.read_text()) if roots.exists() else {}
    for name, root in known.items():
        if path.is_relative_to(Path(root).resolve()):
            return {"root": name, "path": path.relative_to(Path(root).resolve()).as_posix()}
    return None


def _text(job: dict[str, Any], document: dict[str, Any], as_json: bool) -> str:
    if as_json:
        error = job["error"] if job["state"] != "succeeded" else None
        return _failure(error, job) if error else json.dumps(document)
    if job["state"] == "succeeded":
        return table(document)
    error = job["error"]
    return f"{job['id']}  {job['state']}" + (f"  {error['code']}: {error['detail']}" if error else "")


def _failure(error: dict[str, Any], job: dict[str, Any]) -> str:
    """``job`` is left out while there is none."""
    return json.dumps({"error": error} | ({"job": job["id"]} if job else {}))


def _read(path: Path) -> str:
    if not path.exists():
        raise PlaceError(Code.SETUP, f"no {path.name} known: start `xmag up`, or give --url and --api-key")
    return path.read_text().strip()


def _show(stage: str, done: int, total: int) -> None:
    if sys.stderr.isatty():
        click.echo(f"\r{stage:<8} {done}/{total}      ", nl=False, err=True)
