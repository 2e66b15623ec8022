r"""What is given on the command line, read and checked: a wrong value gets one line."""

import sys
from pathlib import Path

import click
import torch

from . import recipes
from .checkpoint import RunError
from .files import whole


class OneLine(click.Group):
    r"""Creates a group of commands in which all that a user can mend ends with one line and status 2."""

    def invoke(self, ctx):
        try:
            return super().invoke(ctx)
        except click.UsageError as error:
            said = error.format_message()
        except (RunError, ValueError, FileNotFoundError, FloatingPointError) as error:
            said = str(error)
        except KeyboardInterrupt as stop:
            click.echo(f"Interrupted{f': {stop}' if str(stop) else ''}.", err=True)
            ctx.exit(130)
        click.echo(f"Error: {' '.join(said.split())}", err=True)
        ctx.exit(2)


def options(*options):
    r"""Several options as one decorator, shown in their order."""
    return lambda command: [command := option(command) for option in reversed(options)][-1]


def names(context, parameter, value: str) -> list[str]:
    r"""Names of guides, with commas between, each once."""
    names = [name.strip() for name in value.split(",") if name.strip()]
    unknown = [name for name in names if name not in recipes.GUIDES]
    if unknown or not names:
        raise click.BadParameter(
            f"{', '.join(unknown) or 'nothing'} is no guide; expected some of {', '.join(recipes.GUIDES)}, "
            "with commas between"
        )
    return list(dict.fromkeys(names))


def device(context, parameter, value: str) -> str:
    r"""A device that is there."""
    known = ("cpu", "cuda")
    try:
        device = torch.device(value)
    except RuntimeError:
        device = None
    if device is None or device.type not in known:
        raise click.BadParameter(f"{value!r} is no device; expected cpu, cuda or cuda:0")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise click.BadParameter(f"torch sees {torch.cuda.device_count()} CUDA devices; use --device cpu")
    return value


def track(blocks, total: int):
    r"""Goes through the blocks behind a bar, if there is a terminal."""
    from rich import progress
    from rich.console import Console

    console = Console(stderr=True)
    return progress.track(blocks, "scoring", total, console=console, transient=True, disable=not sys.stderr.isatty())


def folder(context, parameter, value: Path) -> Path:
    r"""A folder that can be written, made if it is not there."""
    try:
        value.mkdir(parents=True, exist_ok=True)
        with whole(value / "writable"):
            pass
        (value / "writable").unlink()
    except OSError as error:
        raise click.BadParameter(f"cannot write to {value} ({error.strerror}); choose another folder") from error
    return value
