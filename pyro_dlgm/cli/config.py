r"""The options of a run as ``config.json`` keeps them, options from a file, and the data that they name."""

import json
import warnings
from pathlib import Path

import click

from ..recipes import sources
from ..recipes.imports import check_consent
from ..runs.files import RunError
from .options import FIT

# Where `config.json` keeps each option.
PLACES = {"name": ("data", "name"), "data_root": ("data", "root"), "device": ("device",)}
PLACES |= {"objective": ("objective",)}
PLACES |= {name: ("data", name) for name in sources.OPTIONS}
PLACES |= {name: ("recipe", name) for name in ("likelihood", "guide", "latents", "prior", "components", "missingness")}
PLACES |= {name: ("fit", name) for name in FIT}


def options_of(out: Path) -> dict:
    r"""Returns the options with which the run in ``out`` was made, by name; where there is none, nothing and a note."""
    from ..runs.run import Run

    if not Run(out).checkpoint_file.exists():
        warnings.warn(f"there is no run in {out} to go on with: a new one begins", stacklevel=2)
        return {}
    options = options_in(Run(out).config())
    if options["name"] is None or options["likelihood"] is None:
        raise RunError(f"{out} was made in Python: go on with it there, with fit(..., out={str(out)!r}, resume=True)")
    return options


def options_in(config: dict) -> dict:
    r"""Returns the options that a run's ``config.json`` holds, as they would be given; `None` where it has none."""
    options = {}
    made_with = config.get("fit") or {}
    for name, path in PLACES.items():
        if path == ("fit", name) and name not in made_with:  # an option that is newer than the run has its default
            continue
        value = config
        for key in path:
            value = value.get(key) if isinstance(value, dict) else None
        options[name] = value
    if options["name"] in sources.TAKES and options["name"] not in sources.KNOWN:
        options |= {"name": options["data_root"], "data_root": None}
    return options


def consented(run: Path, likelihood: str | None, guide: str | None) -> list[str]:
    r"""Returns the import paths that were given for a run, once it is known that they are all that it needs.

    Raises:
        ValueError: if the run needs one that was not given, or was made with another one.
    """
    from ..runs.run import Run

    recipe = Run(run).config().get("recipe") or {}
    for kind, path in (("likelihood", likelihood), ("guide", guide)):
        if path is not None and recipe.get(kind) != path:
            raise ValueError(f"--{kind} is {path}, and that of {run} is {recipe.get(kind)}; leave it out, or give that")
    named = {kind: str(recipe[kind]) for kind in ("likelihood", "guide") if kind in recipe}
    given = [path for path in (likelihood, guide) if path is not None]
    check_consent(named, given, run, consent)
    return given


def consent(paths: dict[str, str]) -> str:
    r"""Returns how the command line names what may be imported."""
    return " ".join(f"--{kind} {name}" for kind, name in paths.items())


def from_file(context, parameter, value: Path | None) -> None:
    r"""Reads options from a file: they go before the defaults, and after those of the command line."""
    if value is not None and not context.resilient_parsing:
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
        found = options_in(held)
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


def dataset(options: dict, *, download: bool):
    r"""Returns the `Dataset` that the options name, and what ``config.json`` says of it.

    Arguments:
        options: ``name``, ``data_root``, ``likelihood``, ``missingness``, and some of `sources.OPTIONS`.
        download: whether torchvision may fetch or unpack them.

    Raises:
        ValueError: if there is a mechanism of missing values, and none is missing.
    """
    from ..recipes import datasets

    name, root = sources.locate(options["name"], options["data_root"])
    given = sources.stated({option: options.get(option) for option in sources.OPTIONS})
    found = datasets.dataset(name, root, options["likelihood"], validate=validates(options), download=download, **given)
    if options["missingness"] is not None and not found.has_missing:
        raise ValueError(
            f"missingness is {options['missingness']!r}, and no value of {found.name} is missing; expected a file with "
            "NaN where values are missing: leave it out"
        )
    return found, {"name": name, "root": root, **given, "protocol": found.protocol}


def unvalidated(out: Path) -> bool:
    r"""Whether there is a run in ``out`` that was made without validation points, and has to go on without them."""
    from ..runs.run import Run

    return Run(out).checkpoint_file.exists() and Run(out).config()["fit"].get("x_val") is None


def validates(options: dict) -> bool:
    r"""Whether the options ask for validation points, where the data set has none unless it is asked."""
    return options.get("patience") is not None or bool(options.get("num_val"))


def data_of(run: Path, config: dict, root: Path | None):
    r"""Returns the `Dataset` with which a run was made; ``root`` is where it lies now, if it has moved.

    Raises:
        RunError: if the run does not say.
    """
    from ..recipes import datasets

    try:
        kept, options = config["data"], options_in(config)
        given = {option: options[option] for option in sources.OPTIONS}
        where = root or kept["root"]
        place = kept["name"], None if where is None else str(where)
        return datasets.dataset(*place, config["recipe"]["likelihood"], validate=validates(options), **given)
    except (KeyError, TypeError):
        raise RunError(f"{run} does not say its data; score it in Python: load(run), then evaluate.iwae") from None
