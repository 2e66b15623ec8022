r"""`load`: a run on disk as a pair (model, guide)."""

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
    r"""The model and the guide of a run, with the weights of its checkpoint. Nothing in the file is executed.

    A run whose likelihood or guide is "module:Name", code of a user's own, is refused until that path is named here as
    well: importing it runs it.

    The weights are those of the last checkpoint; in a run with ``patience`` those of the best epoch up to there, even
    if the run was killed before its end.

    Arguments:
        run: folder of the run.
        model, guide: where the networks are one's own: a pair built as the one that was trained, whose weights are
            overwritten. Without them the pair is built from the run's recipe.
        imports: import paths, "module:Name", of the likelihood and the guide that may be imported.

    Returns:
        ``(model, guide, config)``, on the CPU unless the given pair is elsewhere.

    Raises:
        RunError: if the folder is no run, its checkpoint is damaged or of another pair, or the run has no
            recipe and no pair was given, or one of code that ``imports`` does not name. A given pair is as it was then.
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
    for name in ("guide", "model"):  # rows in files may be refused: then the model is as it was
        try:
            pair[name].load_state_dict(saved[name])
        except ValueError as error:  # rows in files are others
            raise RunError(line(error)) from error
    return model, guide, config


def _weights(state: dict) -> dict:
    r"""The state dicts of model and guide: those of the best epoch, if the run was looking for it and had one."""
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
    way = "load(run, imports=['{name}']), or the pair that you build, load(run, model=..., guide=...)"
    try:
        check_consent(named, imports, run.folder, way)
    except ValueError as error:
        raise RunError(str(error)) from None


def _check(run: Run, name: str, module: nn.Module, saved) -> None:
    r"""Raises a `RunError` that names the first tensor which differs, before any is overwritten."""
    given = {key: _said(value) for key, value in module.state_dict().items()}
    there = {key: _said(value) for key, value in saved.items()} if isinstance(saved, dict) else {}
    for key in [*given, *there]:
        if key.rpartition(".")[2] in SCALING and None in (given.get(key), there.get(key)):
            continue  # it comes and goes with the weights
        if given.get(key) != there.get(key):
            late = "; parameters that are made at the first call are not there before it" if not given else ""
            raise RunError(
                f"the {name} of {run.folder} is another one than the {type(module).__name__} given: {key} is "
                f"{there.get(key, 'not there')} in the run, {given.get(key, 'not there')} in yours{late}"
            )


def _said(value) -> str:
    return f"{tuple(value.shape)} {value.dtype}" if hasattr(value, "shape") else type(value).__name__
