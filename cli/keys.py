"""`xmag keys`: who may call the service."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import click

from cli.local import data_option, database, local_settings
from xmag.db import keys as stored
from xmag.errors import Code, RequestError


@click.group()
def keys() -> None:
    """Make, list and revoke API keys."""


@keys.command()
@click.argument("name")
@click.option("--scopes", default="submit,read", show_default=True, help="Of submit, read, releases, admin.")
@click.option(
    "--days",
    type=click.FloatRange(min=0, min_open=True),
    default=None,
    help="Valid for so many days; 0.01 is a quarter of an hour.",
)
@data_option
def create(name: str, scopes: str, days: float | None, data: Path | None) -> None:
    """Make a key and print it; it is shown only this once."""
    ends = _ends(days) if days is not None else None
    with database(local_settings(data)) as session:
        token = stored.create(session, name, [scope.strip() for scope in scopes.split(",")], ends)
    click.echo(token)


@keys.command("list")
@data_option
def list_(data: Path | None) -> None:
    """Print all keys without their secrets."""
    with database(local_settings(data)) as session:
        rows = stored.listing(session)
    for row in rows:
        state = (
            "revoked"
            if row.revoked_at
            else f"until {row.expires_at:%Y-%m-%d %H:%M}"
            if row.expires_at
            else "valid"
        )
        click.echo(f"{row.prefix}  {state:<22} {','.join(row.scopes):<28} {row.name}")


@keys.command()
@click.argument("prefix")
@data_option
def revoke(prefix: str, data: Path | None) -> None:
    """Refuse the key with this prefix from now on."""
    with database(local_settings(data)) as session:
        stored.revoke(session, prefix)
    click.echo(f"{prefix} is revoked")


def _ends(days: float) -> datetime:
    try:
        return datetime.now(UTC) + timedelta(days=days)
    except (ValueError, OverflowError):
        raise RequestError(Code.INVALID_REQUEST, "--days is too long: leave it out for no end") from None
