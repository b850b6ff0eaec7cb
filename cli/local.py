"""The data folder (``.xmag/``) as the command line sees it: keys, addresses, the releases in use."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from pydantic import SecretStr
from sqlalchemy.orm import Session

from xmag.config import Settings, load_settings
from xmag.db.session import connect, ping, transaction
from xmag.embedded.process import write_private
from xmag.errors import Code, PlaceError, ReleaseError, RequestError
from xmag.manifest import TASK_LABELS
from xmag.registry import listing, load_key, new_key, public_key_text

SIGNING_KEY = "signing.key"
ACTIVE = "active.json"


def data_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """``--data DIR``, by default the setting XMAG_DATA."""
    kind = click.Path(file_okay=False, path_type=Path)
    return click.option("--data", type=kind, default=None, help="Data folder [default: .xmag].")(command)


def local_settings(data: Path | None = None) -> Settings:
    """Settings from the environment; what it leaves open comes from the data folder of `xmag up`."""
    base = load_settings(**({"data": data} if data else {}))
    folder = base.data.absolute()
    found: dict[str, object] = {"data": folder}
    if not base.trusted_keys and (folder / SIGNING_KEY).exists():
        found["trusted_keys"] = (public_key_text(load_key(folder / SIGNING_KEY)),)
    if not base.database_url.get_secret_value() and (folder / "postgres.json").exists():
        access = json.loads((folder / "postgres.json").read_text())
        address = f"{access['password']}@127.0.0.1:{access['port']}"
        found["database_url"] = SecretStr(f"postgresql+psycopg://xmag:{address}/xmag")
    return base.model_copy(update=found)


def signing_key(data: Path) -> Any:
    """The folder's ed25519 key, made at first use."""
    path = data / SIGNING_KEY
    data.mkdir(parents=True, exist_ok=True)
    return load_key(path) if path.exists() else new_key(path)


@contextmanager
def database(settings: Settings) -> Iterator[Session]:
    """One transaction; raises DATABASE_UNAVAILABLE, which says how to start one."""
    url = settings.database_url.get_secret_value()
    if not url:
        raise _no_database(settings)
    engine = connect(url, pool=1)
    try:
        with transaction(engine) as session:
            yield session
    except PlaceError as error:
        given = load_settings().database_url.get_secret_value()
        if given or error.code != Code.DATABASE_UNAVAILABLE:
            raise
        raise _no_database(settings) from None
    finally:
        engine.dispose()


def _no_database(settings: Settings) -> PlaceError:
    """The data folder is this machine's own, so its name may be shown."""
    reason = f"no database runs on the data folder {settings.data}: start `xmag up` there, give --data,"
    return PlaceError(Code.DATABASE_UNAVAILABLE, f"{reason} or set XMAG_DATABASE_URL")


def database_answers(settings: Settings) -> bool:
    """Whether there is a database that can be asked now."""
    try:
        with database(settings) as session:
            ping(session)
    except PlaceError:
        return False
    return True


def active_heads(data: Path) -> dict[str, str]:
    """Task -> digest of the head promoted last from this command line; `xmag analyze` uses these."""
    path = data / ACTIVE
    return dict(json.loads(path.read_text())) if path.exists() else {}


def set_active(data: Path, task: str, digest: str) -> None:
    """Note a promoted head in the data folder."""
    heads = active_heads(data) | {task: digest}
    write_private(data / ACTIVE, json.dumps(heads, indent=1, sort_keys=True))


def parse_tasks(text: str) -> tuple[str, ...]:
    """``all`` or names with commas; raises RequestError UNKNOWN_TASK."""
    if text == "all":
        return tuple(TASK_LABELS)
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",")))
    for name in names:
        if name not in TASK_LABELS:
            raise RequestError(Code.UNKNOWN_TASK, f"unknown task: choose of {', '.join(TASK_LABELS)}, or all")
    return names


def chosen_heads(data: Path, tasks: tuple[str, ...], every: bool) -> dict[str, str]:
    """The active head of each task; with ``every`` those that there are. Raises MODEL_UNAVAILABLE."""
    active = active_heads(data)
    heads = {task: active[task] for task in tasks if task in active}
    if not heads or (len(heads) < len(tasks) and not every):
        reason = "no weights are promoted for the task: run `make demo`, or `xmag weights promote DIGEST`"
        raise ReleaseError(Code.MODEL_UNAVAILABLE, reason)
    return heads


def find_release(settings: Settings, prefix: str) -> str:
    """The one release whose digest starts with ``prefix``; raises RequestError NOT_FOUND."""
    found = [digest for digest in listing(settings.releases_dir) if digest.startswith(prefix)]
    if not found:
        raise RequestError(Code.NOT_FOUND, "no release begins with these digits: see `xmag weights list`")
    if len(found) > 1:
        raise RequestError(Code.NOT_FOUND, f"{len(found)} releases begin with these digits: give more digits")
    return found[0]
