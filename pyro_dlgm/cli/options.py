r"""Options that several commands share."""

from dataclasses import asdict
from pathlib import Path

import click
from click.core import ParameterSource

from ..comparison.certify import Certify
from ..optim.schedules import SCHEDULES
from ..recipes import datasets, pairs
from . import types

COUNT, POSITIVE = click.IntRange(1), click.FloatRange(0, min_open=True)
PATH = click.Path(path_type=Path)
LADDER = (
    "fixed: one σ; fixed-per-pixel: a σ for each pixel; diagonal: σ(t); low-rank: Σ(t) = diag σ²(t) + F(t) F(t)ᵀ with "
    f"{pairs.RANK} columns in F; factor-analysis: linear μ, a σ for each pixel."
)
ROOT = click.option(
    "--data-root", type=PATH, help="Folder that holds the data set's raw/ folder (cifar10: cifar-10-batches-py)."
)
DEVICE = click.option("--device", default="cpu", callback=types.device, help="Where to work: cpu, cuda or cuda:0.")
DATA = types.options(
    click.option(
        "--data",
        "name",
        type=types.Data(),
        default="digits",
        help=f"{', '.join(datasets.KNOWN)}; a file of arrays (.npy, .npz, .pt); or a folder of images.",
    ),
    ROOT,
    click.option("--key", help="Which array of an .npz or .pt file.  [default: the only one]"),
    click.option("--labels", help="Which array of the file holds labels.  [default: none]"),
    click.option(
        "--layout",
        type=click.Choice(["NCHW", "NHWC"]),
        help="Axes of an array of images.  [default: channels are where there are 1 or 3]",
    ),
    click.option(
        "--size",
        callback=types.size,
        metavar="N|HxW",
        help="Size to which the images of a folder are scaled and cropped; a folder needs it.  [default: none]",
    ),
    click.option("--grey", is_flag=True, help="Read the images of a folder in grey."),
    click.option(
        "--binarization",
        type=click.Choice(["dynamic", "static", "threshold"]),
        help="Of MNIST and Fashion-MNIST for bernoulli: at each access afresh; one draw that is kept; 1 above 1/2.  "
        "[default: dynamic]",
    ),
    click.option("--num-test", type=COUNT, help="Test points of a file or folder.  [default: a tenth]"),
    click.option(
        "--num-val",
        type=click.IntRange(0),
        help="Validation points.  [default: with --patience as many as test (MNIST, CIFAR: 5000), else 0]",
    ),
    click.option(
        "--split-seed",
        callback=types.split_seed,
        metavar="SEED|none",
        help="Seed of the shuffle before the points of a file or folder are split; none keeps their order, and the "
        "last ones test.  [default: 0]",
    ),
    click.option("--download", is_flag=True, help="Let torchvision fetch or unpack data that are not there."),
)
WORKERS = click.option(
    "--workers",
    type=COUNT,
    help="Stream the images of a folder while training, read by so many processes.  [default: read all into memory "
    "first]",
)
CERTIFY = types.options(
    click.option("--ais", is_flag=True, help="Estimate log p(x) by AIS, certified by BDMC."),
    click.option("--gaps", is_flag=True, help="Take log p(x) - F(q) apart, too; implies --ais."),
    click.option("--certified", type=click.IntRange(2), default=64, help="Points of --ais and --gaps, the first ones."),
    click.option("--chains", type=click.IntRange(2), default=4, help="Annealed chains of each point."),
    click.option("--temperatures", type=COUNT, default=200, help="Temperatures of a chain."),
)
PAIR = types.options(
    click.option(
        "--likelihood",
        type=click.Choice(list(pairs.LIKELIHOODS)),
        default="fixed",
        help=f"p(x|t,w). {LADDER} bernoulli: binary pixels; continuous-bernoulli: pixels in [0, 1]; "
        "discretized-logistic: 8-bit pixels.",
    ),
    click.option("--guide", type=click.Choice(list(pairs.GUIDES)), default="amortized", help="q(t), the method."),
    click.option("--latents", type=COUNT, default=16, help="The number D of latents t."),
)
CLIMB = types.options(
    click.option("--epochs", type=COUNT, default=100, help="Passes through the training points."),
    click.option("--batch-size", type=COUNT, default=100, help="Points in a batch; all, where there are fewer."),
    click.option("--lr", type=POSITIVE, default=2e-3, help="Learning rate of networks."),
    click.option("--row-lr", type=POSITIVE, default=1e-1, help="Learning rate of what a guide has for each point."),
    click.option("--schedule", type=click.Choice(list(SCHEDULES)), default="cosine", help="Of the learning rates."),
    click.option("--e-steps", type=COUNT, default=1, help="Steps on q for each step on w."),
    click.option("--warmup", type=click.IntRange(0), default=0, help="Epochs over which the KL term's weight rises."),
    click.option("--clip-norm", type=POSITIVE, help="Bound on the gradient norm of networks.  [default: none]"),
    click.option(
        "--patience",
        type=COUNT,
        help="Stop once the bound on validation points has not risen for so many epochs, and keep the best epoch.  "
        "[default: never]",
    ),
    click.option("--seed", type=click.IntRange(0), default=0, help="Seed of all that is random."),
    DEVICE,
)


def certifying(ais: bool, gaps: bool, points: int, chains: int, temperatures: int) -> Certify | None:
    r"""What the options of `CERTIFY` ask for; `None` for nothing.

    Raises:
        click.UsageError: if one says how log p(x) is to be certified, and none that it is.
    """
    if ais or gaps:
        return Certify(gaps, points, chains, temperatures)
    source = click.get_current_context().get_parameter_source
    given = [name for name in ("certified", "chains", "temperatures") if source(name) is ParameterSource.COMMANDLINE]
    if given:
        raise click.UsageError(f"--{given[0]} is for AIS, and nobody asked for that: add --ais, or --gaps")
    return None


def kept_of(certify: Certify | None) -> dict:
    r"""The same as plain values, for a configuration."""
    return {"certify": None if certify is None else asdict(certify)}
