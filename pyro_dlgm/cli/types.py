r"""Types of the values on the command line: an invalid value is refused in one line."""

import os
import re
from pathlib import Path

import click
from click.shell_completion import CompletionItem

from ..recipes import bounds, imports, pairs, sources, tables
from ..runs.files import whole

PATH = click.Path(path_type=Path)
LAUNCHER = {"RANK", "WORLD_SIZE"}  # variables that torchrun sets for each process of a training


def of_several() -> bool:
    r"""Returns whether a launcher has started this process as one of several."""
    return os.environ.keys() >= LAUNCHER and os.environ["WORLD_SIZE"] != "1"


class Named(click.Choice):
    r"""Creates the type of ``--likelihood`` or ``--guide``: a name, with - or _, or "module:Name".

    Arguments:
        kind: "likelihood" or "guide".
        names: the known names.
        more: other forms of a likelihood, for an error.
    """

    def __init__(self, kind: str, names, more: str = ""):
        super().__init__(list(names))
        self.kind, self.more = kind, more

    def convert(self, value, param, ctx):
        r"""Returns the name; nothing is imported."""
        plain = value if imports.is_path(value) else value.replace("_", "-")
        try:
            pairs.check_name(self.kind, plain)
        except ValueError as error:
            if tables.is_table(plain):
                self.fail(str(error), param, ctx)
            names = ", ".join(map(repr, self.choices))
            self.fail(f"{value!r} is not one of {names}{self.more}, or module:Name, code of your own.", param, ctx)
        return plain


class MechanismName(click.Choice):
    r"""Creates the type of ``--missingness``: a name, with - or _."""

    def convert(self, value, param, ctx):
        r"""Returns the name."""
        return super().convert(value.replace("-", "_"), param, ctx)


class CountOr(click.IntRange):
    r"""Creates the type of a whole number, at least 1, or one word.

    Arguments:
        word: the word.
    """

    def __init__(self, word: str):
        super().__init__(1)
        self.word, self.name = word, f"integer >= 1, or {word}"

    def convert(self, value, param, ctx):
        r"""Returns the number, or the word."""
        return value if value == self.word else super().convert(value, param, ctx)


def own(context, parameter, value: str | None) -> str | None:
    r"""Returns the import path "module:Name" after checking its form."""
    if value is not None and not imports.is_path(value):
        raise click.BadParameter(f"{value!r} is no import path; expected module:Name, as the run was made with")
    return value


class Data(click.ParamType):
    r"""Creates the type of ``--data``: a known name, or a path; the shell completes both."""

    name = "name or path"

    def shell_complete(self, ctx, param, incomplete: str) -> list[CompletionItem]:
        r"""Returns the known names that begin so, and lets the shell complete files."""
        known = [CompletionItem(name) for name in sources.KNOWN if name.startswith(incomplete)]
        return [*known, CompletionItem(incomplete, type="file")]


def objective(context, parameter, value: str) -> str:
    r"""Returns the name of an objective after checking it."""
    try:
        bounds.num_samples(value)
    except ValueError:
        raise click.BadParameter(f"{value!r} is no objective; expected {bounds.FORM}") from None
    return value


def size(context, parameter, value: str | None) -> str | None:
    r"""Returns the size of images, "64" or "64x48", after checking its form."""
    if value is not None and not re.fullmatch(r"[1-9]\d*(x[1-9]\d*)?", value):
        raise click.BadParameter(f"{value!r} is no size; expected one like 64, or 64x48 (height x width)")
    return value


def split_seed(context, parameter, value: str | int | None) -> str | int | None:
    r"""Returns a seed, or "none" for no shuffle."""
    if value is None or value == "none":
        return value
    if not re.fullmatch(r"\d+", str(value)):
        raise click.BadParameter(f"{value!r} is no seed; expected a whole number >= 0, or none to keep the order")
    return int(value)


def guides(context, parameter, value: str) -> list[str]:
    r"""Returns the names of guides, which are given with commas between, each once."""
    names = [name.strip() for name in value.split(",") if name.strip()]
    unknown = [name for name in names if name not in pairs.GUIDES and not imports.is_path(name)]
    if unknown or not names:
        raise click.BadParameter(
            f"{', '.join(unknown) or 'nothing'} is no guide; expected some of {', '.join(pairs.GUIDES)}, "
            "or module:Name, with commas between"
        )
    return list(dict.fromkeys(names))


def device(context, parameter, value: str) -> str:
    r"""Returns the device if it exists. Completion in the shell does not check it: torch is slow to import."""
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
    r"""Returns the folder, which is created if it is missing, after checking that it can be written."""
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
