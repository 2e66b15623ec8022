r"""The options of a run, as they are given and as its ``config.json`` keeps them, and the data that they name."""

from pathlib import Path

from ..data.dataset import Dataset
from ..recipes import datasets
from ..runs.run import Run, RunError

# Where `config.json` keeps each option.
PLACES = {"name": ("data", "name"), "data_root": ("data", "root"), "device": ("device",)}
PLACES |= {name: ("data", name) for name in datasets.OPTIONS}
PLACES |= {name: ("recipe", name) for name in ("likelihood", "guide", "latents")}
FIT = ("epochs", "batch_size", "lr", "row_lr", "schedule", "e_steps", "warmup", "clip_norm", "patience", "seed")
PLACES |= {name: ("fit", name) for name in FIT}


def options_of(out: Path) -> dict:
    r"""The options with which the run in ``out`` was made, by name; none where there is no run yet."""
    if not Run(out).checkpoint_file.exists():
        return {}
    options = options_in(Run(out).config())
    if options["name"] is None or options["likelihood"] is None:
        raise RunError(f"{out} was made in Python: go on with it there, with fit(..., out={str(out)!r}, resume=True)")
    return options


def options_in(config: dict) -> dict:
    r"""The options that a run's ``config.json`` holds, by name, as they would be given; `None` where it has none."""
    options = {}
    for name, path in PLACES.items():
        value = config
        for key in path:
            value = value.get(key) if isinstance(value, dict) else None
        options[name] = value
    if options["name"] in datasets.TAKES and options["name"] not in datasets.KNOWN:
        options |= {"name": options["data_root"], "data_root": None}
    return options


def dataset(options: dict, *, download: bool) -> tuple[Dataset, dict]:
    r"""The data that the options name, and what `config.json` says of them.

    Arguments:
        options: ``name``, ``data_root``, ``likelihood``, and some of `sources.OPTIONS`.
        download: whether torchvision may fetch or unpack them.
    """
    name, root = datasets.locate(options["name"], options["data_root"])
    given = datasets.stated({option: options.get(option) for option in datasets.OPTIONS})
    found = datasets.dataset(name, root, options["likelihood"], validate=validates(options), download=download, **given)
    return found, {"name": name, "root": root, **given, "protocol": found.protocol}


def validates(options: dict) -> bool:
    r"""Whether the training asks for its bound on validation points."""
    return options.get("patience") is not None or bool(options.get("num_val"))


def data_of(run: Path, config: dict, root: Path | None) -> Dataset:
    r"""The data set with which a run was made; ``root`` is where it lies now, if it has moved.

    Raises:
        RunError: if the run does not say.
    """
    try:
        kept, options = config["data"], options_in(config)
        given = {option: options[option] for option in datasets.OPTIONS}
        where = root or kept["root"]
        place = kept["name"], None if where is None else str(where)
        return datasets.dataset(*place, config["recipe"]["likelihood"], validate=validates(options), **given)
    except (KeyError, TypeError):
        raise RunError(f"{run} does not say its data; score it in Python: load(run), then evaluate.iwae") from None
