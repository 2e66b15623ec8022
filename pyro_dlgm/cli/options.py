r"""Options that several commands share. Those of a training come from the signature and docstring of `fit`."""

import click
from click.core import ParameterSource

from ..recipes import bounds, mechanisms, pairs, sources
from ..training import options as checks
from ..training.fit import fit
from ..training.options import CHECKS, Option, options_of
from . import types


def together(*options):
    r"""Returns one decorator for several options, shown in their order."""
    return lambda command: [command := option(command) for option in reversed(options)][-1]


COUNT, WHOLE, POSITIVE = click.IntRange(1), click.IntRange(0), click.FloatRange(0, min_open=True)

LADDER = (
    "fixed: one σ; fixed-per-pixel: a σ for each pixel; diagonal: σ(t); low-rank: Σ(t) = diag σ²(t) + F(t) F(t)ᵀ with "
    f"{pairs.RANK} columns in F; factor-analysis: linear μ, a σ for each pixel; linear: linear μ, one σ."
)
OTHERS = (
    "bernoulli: binary pixels; continuous-bernoulli: pixels in [0, 1]; discretized-logistic: 8-bit pixels; student-t: "
    "real numbers with outliers; zero-inflated-log-normal: amounts >= 0, many of them 0; poisson, negative-binomial, "
    "zero-inflated-negative-binomial: counts; categorical:K: classes 0 to K - 1; "
    "diagonal=0-3,poisson=4,categorical:3=5, say: a table's columns; module:Name: your own."
)
LIKELIHOOD = click.option(
    "--likelihood",
    metavar="NAME",
    type=types.Named("likelihood", pairs.LIKELIHOODS, ", categorical:K, columns (diagonal=0-3,poisson=4)"),
    default="fixed",
    help=f"p(x|t,w). {LADDER} {OTHERS}",
)
# For commands that read a run: code that its file names is imported only if it is named here as well.
OWN = together(
    *(
        click.option(
            f"--{kind}",
            metavar="MODULE:NAME",
            callback=types.own,
            help=f"If the run's {kind} is your own code: its module:Name once more, so that it may be imported.",
        )
        for kind in ("likelihood", "guide")
    )
)
# The type of an option of `fit`, by its check.
KINDS = {checks.COUNT: COUNT, checks.WHOLE: WHOLE, checks.NOT_NEGATIVE: WHOLE, checks.POSITIVE: POSITIVE}
KINDS |= {checks.E_STEPS: types.CountOr(checks.CONVERGED)}
KINDS[checks.SCHEDULE] = click.Choice(list(checks.SCHEDULES))
KINDS[checks.COMPILE] = click.BOOL
KINDS[checks.PRECISION] = click.Choice(["bf16"])
# Defaults of the command line where `fit` has none.
DEFAULTS = {"epochs": 100, "batch_size": checks.BATCH, "seed": 0}


def _of_fit(option: Option):
    r"""Returns the option of the command line for one of `fit`; the first sentence of its meaning is the help."""
    default = DEFAULTS.get(option.name, option.default)
    meaning = option.meaning.partition(". ")[0].removesuffix(".") + "."
    return click.option(
        f"--{option.name.replace('_', '-')}",
        is_flag=default is False,
        type=KINDS[CHECKS[option.name]],
        default=default,
        help=meaning + ("  [default: none]" if default is None else ""),
    )


ROOT = click.option(
    "--data-root", type=types.PATH, help="Folder that holds the data set's raw/ folder (cifar10: cifar-10-batches-py)."
)
MOVED = click.option(
    "--data-root", type=types.PATH, help="Location of the data, if they have moved: as for fit, or the file or folder."
)
OBJECTIVE = click.option(
    "--objective",
    metavar="elbo|iwae:K|dreg:K",
    callback=types.objective,
    default=bounds.ELBO_NAME,
    help="The training objective. elbo: F(q,w); iwae:K: the tighter bound from K importance weights of each point, at "
    "K times the cost; dreg:K: that bound, with a gradient of q whose signal grows with K.",
)
MISSINGNESS = click.option(
    "--missingness",
    type=types.MechanismName(list(mechanisms.MECHANISMS)),
    help="p(m|x), if missing values (NaN in a file) hide because of what they are. self_masking: a_j x_j + c_j is the "
    "logit of x_j being missing; known: the same where high values hide, known:low where low ones do; agnostic: logits "
    "linear in all values. Gaussian values only, in a table its Gaussian columns.  [default: missing at random]",
)
DEVICE = click.option("--device", default="cpu", callback=types.device, help="The device: cpu, cuda or cuda:0.")
FIT = tuple(name for name in options_of(fit) if name != "steps")  # the command line counts epochs
CLIMB = together(*(_of_fit(options_of(fit)[name]) for name in FIT), OBJECTIVE, DEVICE)
DATA = together(
    click.option(
        "--data",
        "name",
        type=types.Data(),
        default="digits",
        help=f"{', '.join(sources.KNOWN)}; a file of arrays ({', '.join(sources.SUFFIXES)}); or a folder of images.",
    ),
    ROOT,
    click.option("--key", help="Which array of an .npz or .pt file.  [default: the only one]"),
    click.option("--labels", help="Which array of the file holds labels.  [default: none]"),
    click.option(
        "--given",
        metavar="KEY",
        help="Which array of the file holds what points are conditioned on, p(x|t,c) and q(t|x,c): whole numbers (N,), "
        "as labels, or numbers (N, C).  [default: none]",
    ),
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
    click.option("--download", is_flag=True, help="Let torchvision download or unpack missing data."),
)
WORKERS = click.option(
    "--workers",
    type=COUNT,
    help="Stream the images of a folder while training, read by this many processes.  [default: read all into memory "
    "first]",
)
CERTIFY = together(
    click.option("--certified", type=click.IntRange(2), default=64, help="Number of points for --ais and --gaps."),
    click.option("--chains", type=click.IntRange(2), default=4, help="Annealed chains of each point."),
    click.option(
        "--temperatures",
        type=COUNT,
        help="Temperatures of a chain.  [default: 30 in compare, what --tol takes in evaluate]",
    ),
    click.option(
        "--tol",
        type=POSITIVE,
        help="Add temperatures until the gap of BDMC is within this many nats.  [default: 0.1 in evaluate]",
    ),
)


def certifying(default: bool):
    r"""Returns the options ``--ais`` and ``--gaps``, on or off by ``default``, and those of `CERTIFY`."""
    return together(
        click.option("--ais/--no-ais", default=default, help="Estimate log p(x) by AIS, certified by BDMC."),
        click.option("--gaps/--no-gaps", default=default, help="Split log p(x) - F(q) into two gaps; implies --ais."),
        CERTIFY,
    )


PAIR = together(
    LIKELIHOOD,
    click.option(
        "--guide",
        type=types.Named("guide", pairs.GUIDES),
        metavar="NAME",
        default="amortized",
        help=f"q(t), the method: {', '.join(pairs.GUIDES)}; module:Name: your own.",
    ),
    click.option("--latents", type=COUNT, default=16, help="The number D of latents t."),
    click.option(
        "--prior",
        type=click.Choice(list(pairs.PRIORS)),
        default="standard",
        help="p(t). standard: N(0, I); scaled: learned scales; mixture: of Gaussians; vamp: of the encoder's q at "
        "learned pseudo-inputs, of --guide amortized or amortized-full-rank.",
    ),
    click.option(
        "--components",
        type=COUNT,
        default=pairs.COMPONENTS,
        help="Components of --prior mixture, pseudo-inputs of vamp.",
    ),
    MISSINGNESS,
)


def annealed(temperatures: int | None, tol: float | None, default: int | None = None) -> dict[str, int | float]:
    r"""Returns the arguments of `Certify` for --temperatures and --tol; ``default`` temperatures if neither is given.

    Raises:
        click.UsageError: if both are given.
    """
    if tol is None:
        return {"num_temperatures": temperatures or default}
    if temperatures is not None:
        raise click.UsageError("--tol finds how many temperatures it takes: leave out --temperatures, or --tol")
    return {"tol": tol}


def scores_asked(ais: bool, gaps: bool) -> tuple[bool, bool]:
    r"""Returns whether to estimate log p(x), and whether the gaps: gaps need log p(x), and --no-ais leaves out both.

    Raises:
        click.UsageError: if there are options of AIS without ``--ais`` or ``--gaps``, or ``--gaps`` with ``--no-ais``.
    """
    source = click.get_current_context().get_parameter_source
    names = ("ais", "gaps", "certified", "chains", "temperatures", "tol")
    typed = [name for name in names if source(name) is ParameterSource.COMMANDLINE]
    if "ais" in typed and not ais:
        if gaps and "gaps" in typed:
            raise click.UsageError("--gaps needs log p(x): leave out --no-ais, or --gaps")
        gaps = False
    ais = ais or gaps
    settings = [name for name in typed if name not in ("ais", "gaps")]
    if settings and not ais:
        raise click.UsageError(f"--{settings[0]} is for AIS, which was not asked for: add --ais, or --gaps")
    return ais, gaps
