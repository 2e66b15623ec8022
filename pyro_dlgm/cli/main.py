r"""The ``pyro-dlgm`` command line. Nothing else imports it; torch is imported only by work that needs it."""

import click

from .compare import compare_command
from .errors import OneLine
from .evaluate import evaluate_command
from .fit import fit_command
from .help import WIDTH
from .sample import sample_command
from .types import of_several

SETTINGS = {"help_option_names": ["-h", "--help"], "show_default": True, "max_content_width": WIDTH}


@click.group(cls=OneLine, context_settings=SETTINGS)
@click.version_option(package_name="pyro_dlgm")
@click.pass_context
def main(context) -> None:
    """Deep latent Gaussian models: one generative model, guides that swap.

    \b
    p(x|w) = ∫ p(x|t,w) p(t) dt        p(t) = N(0, I), p(x|t,w) = N(μ(t,w), Σ(t,w))
    F(q,w) = E_q [log p(x,t|w) - log q(t)] <= log p(x|w)

    Learning w is climbing F in q (E-step) and in w (M-step); what distinguishes the methods is only q. Start with
    `pyro-dlgm compare`; a run of your own is

    \b
    pyro-dlgm fit --data digits --guide amortized --out runs/x
    pyro-dlgm evaluate runs/x
    pyro-dlgm sample runs/x --out samples.png
    """
    if of_several() and context.invoked_subcommand != "fit":
        raise click.UsageError(
            f"{context.invoked_subcommand} is for one process: leave out torchrun; compare has --jobs"
        )


for command in (compare_command, fit_command, evaluate_command, sample_command):
    main.add_command(command)
