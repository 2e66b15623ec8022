r"""The command ``pyro-dlgm sample``: draws from the model of a run."""

import math
from pathlib import Path

import click

from ..runs.files import RunError, whole, writing
from . import config, types
from .help import Taught
from .options import COUNT, MOVED, OWN

CAPTION = "{} samples of {}: the mean of p(x | t, w), t ~ p(t), seed {}"
LEGIBLE = 56  # pixels of the longer side of a drawn image, at least


EXAMPLES = {"pyro-dlgm sample runs/x --num 100 --out samples.png": "a hundred samples in one picture"}


@click.command("sample", cls=Taught, examples=EXAMPLES)
@click.argument("run", type=types.PATH)
@click.option("--out", type=types.PATH, default="samples.png", help="The picture.")
@click.option("--num", type=COUNT, default=64, help="How many images.")
@click.option("--seed", type=click.IntRange(0), default=0, help="Seed of t.")
@MOVED
@OWN
def sample_command(run, out, num, seed, data_root, likelihood, guide) -> None:
    """Draw t ~ p(t) from the model of the RUN, and show the mean of p(x|t,w) for each in one picture.

    Where something is given, samples take that of the test points in turn.
    """
    images = _samples(run, num, seed, data_root, config.consented(run, likelihood, guide))
    from ..plots.images import as_pil, captioned, grid

    zoom = max(1, math.ceil(LEGIBLE / max(images.shape[-2:])))
    with writing(out, "; choose another place"), whole(out) as path:
        captioned(as_pil(grid(images, zoom)), CAPTION.format(num, run.absolute().name, seed)).save(path)
    click.echo(f"Written: {out}")


def _samples(run: Path, num: int, seed: int, data_root: Path | None, imports: list[str]):
    r"""Returns the means of p(x | t), t ~ p(t), as images (num, C, H, W)."""
    import torch

    from ..distributions import draws, mean
    from ..latents.asked import emission, prior
    from ..points import Points
    from ..runs.load import load
    from ..seeding import forked

    model, _, kept = load(run, imports=imports)
    given = None
    if kept.get("recipe", {}).get("given_dim"):
        given = config.data_of(run, kept, data_root).test_given
        given = given[torch.arange(num) % len(given)]
    points = Points(torch.empty(num, 0), given=given)
    with forked(seed), torch.no_grad():
        images = mean(emission(model, points, draws(prior(model, points), 1, num).squeeze(0)))
    if images.dim() != 4 or images.shape[1] not in (1, 3):
        raise RunError(
            f"the points of {run} have shape {tuple(images.shape[1:])} and are no pictures; draw them in Python: "
            "model, guide, config = load(run); model(size=64)"
        )
    return images
