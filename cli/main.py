"""The `xmag` command: a group whose commands are imported when they run, so `xmag --help` is quick."""

import importlib
import sys
from collections.abc import Sequence

import click

from xmag import __version__
from xmag.errors import XmagError

COMMANDS = {
    "analyze": ("cli.analyze:analyze", "Read one slide in this process, without servers."),
    "bench": ("benchmarks.command:bench", "Measure on slides of yours, beside what is used today."),
    "demo": ("cli.demo:demo", "Run everything on synthetic slides and show the results."),
    "dispatcher": ("cli.programs:dispatcher", "Run the dispatcher."),
    "keys": ("cli.keys:keys", "Make, list and revoke API keys."),
    "migrate": ("cli.programs:migrate", "Bring the database to the newest schema."),
    "rescore": ("cli.rescore:rescore", "Read the stored slides again with another head; opens no slide."),
    "serve": ("cli.programs:serve", "Run the gateway."),
    "settings": ("cli.programs:settings", "Print the page of all settings."),
    "slides": ("cli.slides:slides", "Make synthetic slides."),
    "submit": ("cli.submit:submit", "Submit a slide to a running service."),
    "up": ("cli.up:up", "Run the whole service on this machine."),
    "weights": ("cli.weights:weights", "Publish, list, verify, promote and roll back releases."),
    "worker": ("cli.programs:worker", "Run a worker."),
}
"""Command -> where it is, and what `xmag --help` says of it."""


class LazyGroup(click.Group):
    """Finds a command's module by `COMMANDS`."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        """Names in order."""
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """Import one command; None if there is none of the name."""
        if cmd_name not in COMMANDS:
            return None
        module, attribute = COMMANDS[cmd_name][0].split(":")
        command = getattr(importlib.import_module(module), attribute)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """List the commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, summary) in sorted(COMMANDS.items())])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(version=__version__, message="%(version)s")
def xmag() -> None:
    """Read whole-slide images with XMAG: run the service, submit slides, keep its weights and keys."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point; an error of ours becomes one line on stderr and exit code 1."""
    try:
        xmag(arguments)
    except XmagError as error:
        click.echo(f"error: {error.code}: {error.detail}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
