"""The command `ptcore` itself: its verbs are imported when they are asked for, so that each starts fast."""

from __future__ import annotations

import importlib

import click

# Verbs whose room needs little; all others are in the room that needs most.
_QUICK = dict.fromkeys(
    ("registers", "walk", "maps", "find", "diff", "stat"), "ptcore.cli.image_commands"
)
_QUICK |= dict.fromkeys(("check", "roots"), "ptcore.cli.finding_commands")
_QUICK["translate"] = "ptcore.cli.translate_command"
_OTHERS = "ptcore.cli.commands"


class LateGroup(click.Group):
    """A group that imports a verb's room when the verb is first named."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all verbs."""
        importlib.import_module(_OTHERS)
        return sorted({*super().list_commands(ctx), *_QUICK})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a verb, imported now if it has not been."""
        found = super().get_command(ctx, cmd_name)
        if found is None:
            importlib.import_module(_QUICK.get(cmd_name, _OTHERS))
            found = super().get_command(ctx, cmd_name)
        return found


def quiet_pipe() -> None:
    """End without a traceback when the reader of a pipe has gone."""
    import signal

    signal.signal(signal.SIGPIPE, signal.SIG_DFL)


@click.group(cls=LateGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="ptcore", prog_name="ptcore")
def ptcore() -> None:
    """Page tables that you can compute with."""
