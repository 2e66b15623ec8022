r"""What is given on the command line, read and checked: a wrong value gets one line."""

import os
import re
import warnings
from pathlib import Path

import click
from click.shell_completion import CompletionItem

from ..recipes import bounds, imports, pairs, sources, tables
from ..runs.files import RunError, whole

PATH = click.Path(path_type=Path)
LAUNCHER = {"RANK", "WORLD_SIZE"}  # what torchrun says to each process of a training


def of_several() -> bool:
    r"""Whether a launcher has started this process as one of several."""
    return os.environ.keys() >= LAUNCHER and os.environ["WORLD_SIZE"] != "1"


class OneLine(click.Group):
    r"""Creates a group of commands in which everything that a user can mend ends with one line and status 2."""

    def invoke(self, ctx):
        try:
            with warnings.catch_warnings():
                warnings.showwarning = self._note
                return super().invoke(ctx)
        except click.UsageError as error:
            said = error.format_message()
        except (RunError, ValueError, FileNotFoundError, FloatingPointError) as error:
            said = in_options(str(error), self.commands.values())
        except KeyboardInterrupt as stop:
            click.echo(
                f"Interrupted: {stop}" if str(stop) else "Interrupted.", err=True
            )  # a command ends without a dot
            ctx.exit(130)
        click.echo(f"Error: {' '.join(said.split())}", err=True)
        ctx.exit(2)

    def resolve_command(self, ctx, args):
        r"""The command that the first argument names; an error lists those that there are."""
        if args and not ctx.resilient_parsing and args[0] not in self.commands and not args[0].startswith("-"):
            *names, last = self.list_commands(ctx)
            raise click.UsageError(
                f"No such command {args[0]!r}; expected {', '.join(names)} or {last} "
                "(report.html is written by compare, fit and evaluate)"
            )
        return super().resolve_command(ctx, args)

    def _note(self, message, category, filename, lineno, file=None, line=None) -> None:
        said = in_options(" ".join(str(message).split()), self.commands.values())
        click.echo(f"Note: {said}", err=True)


def in_options(said: str, commands) -> str:
    r"""A message in the words of the command line: where Python says key=, num_val or "lr is", it says the options.

    Arguments:
        said: the message.
        commands: those whose options are meant.
    """
    options = {p.name: p.opts[0] for c in commands for p in c.params if isinstance(p, click.Option)}
    options.pop("name", None)  # it is a word as others are
    options["data"] = "--data"  # whose parameter has that name
    names = "|".join(sorted(map(re.escape, options), key=len, reverse=True))
    unlike = "|".join(name for name in options if "_" in name or name == "lr")  # no words of English

    def option(found: re.Match) -> str:
        return options[found[1]]

    said = re.sub(rf"\b({names})=True\b", option, said)
    said = re.sub(rf"(?<!\w)({names})='(\w+)'", lambda m: f"{option(m)} {m[2]}", said)
    said = re.sub(rf"^({names}) is None\b", lambda m: f"{option(m)} is not given", said)
    said = re.sub(rf"(?:^|(?<=; )|(?<= and ))({names}) is True\b", lambda m: f"{option(m)} is given", said)
    said = re.sub(rf"(?:^|(?<=; )|(?<= and ))({names}) is False\b", lambda m: f"{option(m)} is not", said)
    said = re.sub(rf"(?:^|(?<=; ))({names}) (is|'\w+')", lambda m: f"{option(m)} {m[2]}", said)
    return re.sub(rf"(?<![\w.-])({unlike})\b(?!\()", option, said)


class Named(click.Choice):
    r"""Creates the type of ``--likelihood`` or ``--guide``: a name, with - or _, or "module:Name".

    Arguments:
        kind: "likelihood" or "guide".
        names: of those that there are.
        more: what else a likelihood may be, for an error.
    """

    def __init__(self, kind: str, names, more: str = ""):
        super().__init__(list(names))
        self.kind, self.more = kind, more

    def convert(self, value, param, ctx):
        r"""The name; nothing is imported."""
        plain = value if imports.is_path(value) else value.replace("_", "-")
        try:
            pairs.check_name(self.kind, plain)
        except ValueError as error:
            if tables.is_table(plain):
                self.fail(str(error), param, ctx)
            names = ", ".join(map(repr, self.choices))
            self.fail(f"{value!r} is not one of {names}{self.more}, or module:Name, code of your own.", param, ctx)
        return plain


class Mechanism(click.Choice):
    r"""Creates the type of ``--missingness``: a name, with - or _."""

    def convert(self, value, param, ctx):
        r"""The name."""
        return super().convert(value.replace("-", "_"), param, ctx)


class CountOr(click.IntRange):
    r"""Creates the type of a whole number, at least 1, or one word.

    Arguments:
        word: that word.
    """

    def __init__(self, word: str):
        super().__init__(1)
        self.word, self.name = word, f"integer >= 1, or {word}"

    def convert(self, value, param, ctx):
        r"""The number, or the word."""
        return value if value == self.word else super().convert(value, param, ctx)


def own(context, parameter, value: str | None) -> str | None:
    r"""An import path "module:Name"."""
    if value is not None and not imports.is_path(value):
        raise click.BadParameter(f"{value!r} is no import path; expected module:Name, as the run was made with")
    return value


class Data(click.ParamType):
    r"""Creates the type of ``--data``: a known name, or a path; the shell completes both."""

    name = "name or path"

    def shell_complete(self, ctx, param, incomplete: str) -> list[CompletionItem]:
        r"""Known names that begin so, and what the shell finds among files."""
        known = [CompletionItem(name) for name in sources.KNOWN if name.startswith(incomplete)]
        return [*known, CompletionItem(incomplete, type="file")]


def objective(context, parameter, value: str) -> str:
    r"""The name of an objective."""
    try:
        bounds.num_samples(value)
    except ValueError:
        raise click.BadParameter(f"{value!r} is no objective; expected {bounds.FORM}") from None
    return value


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


def guides(context, parameter, value: str) -> list[str]:
    r"""Names of guides, with commas between, each once."""
    names = [name.strip() for name in value.split(",") if name.strip()]
    unknown = [name for name in names if name not in pairs.GUIDES and not imports.is_path(name)]
    if unknown or not names:
        raise click.BadParameter(
            f"{', '.join(unknown) or 'nothing'} is no guide; expected some of {', '.join(pairs.GUIDES)}, "
            "or module:Name, with commas between"
        )
    return list(dict.fromkeys(names))


def device(context, parameter, value: str) -> str:
    r"""A device that is there. The shell's completion does not ask: torch is slow to import."""
    if context.resilient_parsing or value == "cpu":
        return value
    if not re.fullmatch(r"cpu:0|cuda(:\d+)?", value):
        raise click.BadParameter(f"{value!r} is no device; expected cpu, cuda or cuda:0")
    from ..training.checks import device as found

    try:
        found(value)
    except ValueError as error:
        raise click.BadParameter(f"{error}: use --device cpu") from None
    return value


def folder(context, parameter, value: Path) -> Path:
    r"""A folder that can be written, made if it is not there."""
    if context.resilient_parsing:
        return value
    try:
        value.mkdir(parents=True, exist_ok=True)
        with whole(value / "writable"):
            pass
        (value / "writable").unlink()
    except OSError as error:
        raise click.BadParameter(f"cannot write to {value} ({error.strerror}); choose another folder") from error
    return value
