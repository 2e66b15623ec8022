r"""What is given on the command line, read and checked: a wrong value gets one line."""

import json
import re
import sys
from pathlib import Path

import click
import torch
from click.shell_completion import CompletionItem

from ..recipes import datasets, pairs
from ..runs.files import whole
from ..runs.run import RunError
from . import config as settings


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


class Data(click.ParamType):
    r"""Creates the type of ``--data``: a known name, or a path; the shell completes both."""

    name = "name or path"

    def shell_complete(self, ctx, param, incomplete: str) -> list[CompletionItem]:
        r"""Known names that begin so, and what the shell finds among files."""
        known = [CompletionItem(name) for name in datasets.KNOWN if name.startswith(incomplete)]
        return [*known, CompletionItem(incomplete, type="file")]


def size(context, parameter, value: str | None) -> str | None:
    r"""A size of images, "64" or "64x48"."""
    if value is not None and not re.fullmatch(r"[1-9]\d*(x[1-9]\d*)?", value):
        raise click.BadParameter(f"{value!r} is no size; expected one like 64, or 64x48 (height x width)")
    return value


def split_seed(context, parameter, value: str | int | None) -> str | int | None:
    r"""A seed, or "none" for no shuffle."""
    if value is None or value == "none":
        return value
    if not re.fullmatch(r"\d+", str(value)):
        raise click.BadParameter(f"{value!r} is no seed; expected a whole number >= 0, or none to keep the order")
    return int(value)


def config(context, parameter, value: Path | None) -> None:
    r"""Puts the options of a file between those of the command line and the defaults."""
    if value is not None:
        context.default_map = {**(context.default_map or {}), **_options_in(value, context.command)}


def _options_in(file: Path, command: click.Command) -> dict[str, str]:
    try:
        held = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise click.BadParameter(f"cannot read {file} ({error.strerror}); expected a JSON file of options") from error
    except ValueError as error:
        raise click.BadParameter(f"{file} is not JSON ({error}); expected one object of options") from error
    if not isinstance(held, dict):
        raise click.BadParameter(f"{file} holds a {type(held).__name__}; expected one object of options")
    if isinstance(held.get("recipe"), dict) and isinstance(held.get("data"), dict):
        found = settings.options_in(held)
    else:
        found = _by_option(file, held, command)
    # As text, so that a number means what it means on the command line: 2.5 epochs are refused, not cut to 2.
    return {name: str(value) for name, value in found.items() if value is not None}


def _by_option(file: Path, held: dict, command: click.Command) -> dict:
    r"""Values by the name of the parameter; keys are names of options, with - or _."""
    known = {p.opts[0].removeprefix("--"): p.name for p in command.params if p.expose_value and p.name != "resume"}
    unknown = [key for key in held if key.replace("_", "-") not in known]
    if unknown:
        raise click.BadParameter(f"{file} has {', '.join(unknown)}; expected some of {', '.join(known)}")
    nested = [key for key, value in held.items() if isinstance(value, dict | list)]
    if nested:
        raise click.BadParameter(f"{', '.join(nested)} in {file}: expected a number, a word, true, false or null")
    return {known[key.replace("_", "-")]: value for key, value in held.items()}


def names(context, parameter, value: str) -> list[str]:
    r"""Names of guides, with commas between, each once."""
    names = [name.strip() for name in value.split(",") if name.strip()]
    unknown = [name for name in names if name not in pairs.GUIDES]
    if unknown or not names:
        raise click.BadParameter(
            f"{', '.join(unknown) or 'nothing'} is no guide; expected some of {', '.join(pairs.GUIDES)}, "
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
