"""`xmag weights`: publish, check and promote releases.

``active.json`` in the data folder holds what this command line promoted; `xmag analyze` reads it, since it
runs without a database. When a database answers, the same promotion is made there, and the service serves it.
"""

from pathlib import Path

import click

from cli import local
from cli.local import data_option, local_settings
from xmag import registry
from xmag.config import Settings
from xmag.db import releases
from xmag.errors import Code, ReleaseError
from xmag.manifest import EncoderManifest, HeadManifest, parse_manifest

ACTOR = "cli"


@click.group()
def weights() -> None:
    """Publish, list, verify, promote and roll back releases."""


@weights.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@data_option
def publish(folder: Path, data: Path | None) -> None:
    """Sign FOLDER as a release: manifest.json, model.safetensors, self_test.safetensors, MODEL_CARD.md."""
    settings = local_settings(data)
    manifest, card = _read_folder(folder)
    files = [(folder / name).read_bytes() for name in (registry.WEIGHTS, registry.SELF_TEST)]
    signing = local.signing_key(settings.data)
    click.echo(registry.publish(settings.releases_dir, manifest, files[0], files[1], card, signing))


@weights.command()
@data_option
def key(data: Path | None) -> None:
    """Print the public half of the data folder's signing key, for XMAG_TRUSTED_KEYS; made at first use."""
    click.echo(registry.public_key_text(local.signing_key(local_settings(data).data)))


@weights.command("list")
@data_option
def list_(data: Path | None) -> None:
    """Print every release of the data folder; * marks the heads in use."""
    settings = local_settings(data)
    active = set(local.active_heads(settings.data).values())
    known = registry.listing(settings.releases_dir)
    if not known:
        click.echo("no releases in the data folder: run `make demo`, or `xmag weights publish FOLDER`")
    for digest in known:
        manifest = registry.read_manifest(settings.releases_dir, digest)
        kind = manifest.task if isinstance(manifest, HeadManifest) else "encoder"
        mark = "*" if digest in active else " "
        click.echo(f"{mark} {digest[:16]}  {kind:<8} {manifest.licence.permitted_use:<9} {manifest.name}")


@weights.command()
@click.argument("digest")
@data_option
def verify(digest: str, data: Path | None) -> None:
    """Check a release's signature and bytes, load it, and run its self-test."""
    from xmag.nn.runtime import Engine

    settings = local_settings(data)
    found = local.find_release(settings, digest)
    Engine(settings.releases_dir, settings.trusted_keys, settings.worker).ensure(found)
    if local.database_answers(settings):
        with local.database(settings) as session:
            releases.mark_verified(session, found, ACTOR)
    click.echo(f"{found} is whole and passes its self-test")


@weights.command()
@click.argument("digest")
@data_option
def promote(digest: str, data: Path | None) -> None:
    """Let a head serve its task from now on; jobs already submitted keep theirs."""
    settings = local_settings(data)
    found = local.find_release(settings, digest)
    task, served = promote_head(settings, found)
    click.echo(
        f"{task} is now read with {found}" + ("" if served else " by `xmag analyze`; no database answers")
    )


@weights.command()
@click.argument("task")
@data_option
def rollback(task: str, data: Path | None) -> None:
    """Return a task to the head that served before."""
    settings = local_settings(data)
    (name,) = local.parse_tasks(task)
    with local.database(settings) as session:
        digest = releases.rollback(session, name, ACTOR)
    local.set_active(settings.data, name, digest)
    click.echo(f"{name} is read with {digest} again")


def promote_head(settings: Settings, digest: str) -> tuple[str, bool]:
    """Promote for `xmag analyze`, and in the database if one answers; the task, and whether one did.

    Raises ReleaseError when the head or its encoder is not whole, and what `releases.promote` raises.
    """
    head = registry.read_verified(settings.releases_dir, digest, settings.trusted_keys)
    if not isinstance(head.manifest, HeadManifest):
        raise ReleaseError(Code.MODEL_UNAVAILABLE, "this release is an encoder: promote a head that reads it")
    encoder = registry.read_verified(settings.releases_dir, head.manifest.encoder, settings.trusted_keys)
    served = local.database_answers(settings)
    if served:
        with local.database(settings) as session:
            for release in (encoder, head):
                releases.register(session, release.digest, release.manifest, release.signer, ACTOR)
            releases.promote(session, digest, ACTOR)
    local.set_active(settings.data, head.manifest.task, digest)
    return head.manifest.task, served


def _read_folder(folder: Path) -> tuple[EncoderManifest | HeadManifest, str]:
    try:
        manifest = parse_manifest((folder / registry.MANIFEST).read_bytes())
        return manifest, (folder / registry.CARD).read_text()
    except (OSError, ValueError) as error:
        reason = f"the folder's manifest or model card cannot be read ({type(error).__name__})"
        raise ReleaseError(Code.MODEL_INTEGRITY, reason) from None
