r"""`load`: reads a run on disk as a pair (model, guide)."""

from collections.abc import Iterable
from pathlib import Path

from torch import nn

from ..guides.amortized import SCALING
from ..messages import line
from ..recipes.imports import check_consent
from ..recipes.pairs import Recipe
from ..seeding import forked
from .files import RunError
from .run import Run


def load(run: str | Path, *, model=None, guide=None, imports: Iterable[str] = ()) -> tuple[nn.Module, nn.Module, dict]:
    r"""Returns model and guide of a run, with the weights of its checkpoint; nothing in the file is executed.

    A run whose likelihood or guide is a user's own code, "module:Name", is refused unless ``imports`` names that path,
    since importing a module runs it.

    The weights are those of the last checkpoint; in a run with ``patience``, those of the best epoch so far, even if
    the run was killed before its end.

    Arguments:
        run: folder of the run.
        model, guide: for your own networks: a pair built like the one that was trained, whose weights are overwritten.
            By default the pair is built from the run's recipe.
        imports: the import paths, "module:Name", of likelihood and guide that may be imported.

    Returns:
        ``(model, guide, config)``, on the CPU unless the given pair is elsewhere.

    Raises:
        RunError: if the folder is not a run, its checkpoint is damaged or of another pair, the run has no recipe and no
            pair was given, or its recipe needs code that ``imports`` does not name. A given pair is then left
            unchanged.
    """
    folder = Run(run)
    config, state = folder.config(), folder.load()
    if model is None or guide is None:
        recipe = _recipe(folder, config)
        _check_consent(folder, recipe, {"likelihood": model, "guide": guide}, imports)
        with forked():
            model = recipe.new_model() if model is None else model
            guide = recipe.new_guide(model) if guide is None else guide
    pair, saved = {"model": model, "guide": guide}, _weights(state)
    for name, module in pair.items():
        _check(folder, name, module, saved.get(name))
    for name in ("guide", "model"):  # rows in files may be refused: then the model is unchanged
        try:
            pair[name].load_state_dict(saved[name])
        except ValueError as error:  # rows in files differ
            raise RunError(line(error)) from error
    return model, guide, config


def _weights(state: dict) -> dict:
    r"""Returns the state dicts of model and guide: those of the best epoch, if the run recorded one."""
    best = (state.get("validation") or {}).get("states")
    return state if best is None else dict(zip(("model", "guide"), best, strict=True))


def _recipe(run: Run, config: dict) -> Recipe:
    if "recipe" not in config:
        raise RunError(
            f"the networks of {run.folder} are your own: build the pair as it was and call "
            f"load({str(run.folder)!r}, model=..., guide=...)"
        )
    try:
        return Recipe(**config["recipe"])
    except (TypeError, ValueError) as error:
        raise RunError(f"{run.config_file} has a recipe that cannot be read: {error}") from None


def _check_consent(run: Run, recipe: Recipe, made: dict, imports: Iterable[str]) -> None:
    named = {kind: getattr(recipe, kind) for kind, module in made.items() if module is None}
    try:
        check_consent(named, imports, run.folder, _way)
    except ValueError as error:
        raise RunError(str(error)) from None


def _way(paths: dict[str, str]) -> str:
    imports = list(dict.fromkeys(paths.values()))
    return f"load(run, imports={imports}), or the pair that you build, load(run, model=..., guide=...)"


def _check(run: Run, name: str, module: nn.Module, saved) -> None:
    r"""Raises a `RunError` that names the first tensor that differs, before any is overwritten."""
    given = {key: _said(value) for key, value in module.state_dict().items()}
    there = {key: _said(value) for key, value in saved.items()} if isinstance(saved, dict) else {}
    for key in [*given, *there]:
        if key.rpartition(".")[2] in SCALING and None in (given.get(key), there.get(key)):
            continue  # optional: present only with some weights
        if given.get(key) != there.get(key):
            late = "; parameters that are made at the first call do not exist before it" if not given else ""
            raise RunError(
                f"the {name} of {run.folder} is not the {type(module).__name__} given: {key} is "
                f"{there.get(key, 'not there')} in the run, {given.get(key, 'not there')} in yours{late}"
            )


def _said(value) -> str:
    return f"{tuple(value.shape)} {value.dtype}" if hasattr(value, "shape") else type(value).__name__
