r"""The command line, ``pyro-dlgm``: the front door, which knows every name and is known by none."""

import json
import platform
import sys
from importlib.metadata import version
from pathlib import Path

import click
import torch

from . import data, recipes
from . import table as text
from .compare import Row, rows
from .files import whole
from .pictures import sheet

HEADLINE = "hard-em,mean-field,full-rank,amortized,auto-normal"
LADDER = (
    "fixed: one σ; fixed-per-pixel: a σ for each pixel; diagonal: σ(t); factor-analysis: linear μ, a σ for each pixel."
)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.version_option(package_name="pyro_dlgm")
def main() -> None:
    r"""Deep latent Gaussian models: one generative model, guides that swap.

    \b
    p(x|w) = ∫ p(x|t,w) p(t) dt        p(t) = N(0, I), p(x|t,w) = N(μ(t,w), Σ(t,w))
    F(q,w) = E_q [log p(x,t|w) - log q(t)] <= log p(x|w)

    Learning w is climbing F in q (E-step) and in w (M-step); what distinguishes the methods is only q. Start with
    `pyro-dlgm compare`.
    """


def _names(context, parameter, value: str) -> list[str]:
    names = [name.strip() for name in value.split(",") if name.strip()]
    unknown = [name for name in names if name not in recipes.GUIDES]
    if unknown or not names:
        raise click.BadParameter(
            f"{', '.join(unknown) or 'nothing'} is no guide; expected some of {', '.join(recipes.GUIDES)}, "
            "with commas between"
        )
    return list(dict.fromkeys(names))


def _folder(context, parameter, value: Path) -> Path:
    try:
        value.mkdir(parents=True, exist_ok=True)
        with whole(value / "writable"):
            pass
        (value / "writable").unlink()
    except OSError as error:
        raise click.BadParameter(f"cannot write to {value} ({error.strerror}); choose another folder") from error
    return value


@main.command("compare")
@click.option("--data", "name", type=click.Choice(["digits"]), default="digits", help="Data set; digits needs no file.")
@click.option(
    "--guides",
    default=HEADLINE,
    callback=_names,
    help=f"Rows, with commas between: some of {', '.join(recipes.GUIDES)}.",
)
@click.option(
    "--likelihood",
    type=click.Choice(list(recipes.LIKELIHOODS)),
    default="fixed",
    help=f"p(x|t,w) = N(μ(t), Σ). {LADDER}",
)
@click.option("--latents", type=click.IntRange(1, 63), default=16, help="The number D of latents t.")
@click.option(
    "--gradients",
    type=click.IntRange(1),
    default=100,
    help="Budget of each row, in gradient evaluations per training point.",
)
@click.option("--samples", type=click.IntRange(25), default=1000, help="The number K of samples of IWAE-K.")
@click.option("--seed", type=click.IntRange(0), default=0, help="Seed of w, of each training and of each scoring.")
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default="runs/compare",
    callback=_folder,
    help="Folder for compare.json and compare.png.",
)
def compare_command(name, guides, likelihood, latents, gradients, samples, seed, out) -> None:
    """The main job: several guides on one generative model, one table.

    Every row starts from the same w and has the same budget. PPCA, the exact linear baseline, stands first. Guides
    with parameters for each point score the test set after an E-step there, with w frozen.
    """
    dataset = data.digits()
    shape = dataset.image_shape
    settings = {"gradients": gradients, "num_samples": samples, "ppca": latents, "seed": seed}
    work = rows(
        lambda: recipes.model(likelihood, latents, shape),
        {guide: recipes.guide(guide, latents, shape) for guide in guides},
        dataset.train,
        dataset.test,
        transform=dataset.transform,
        model_name=f"conv-{likelihood}" if likelihood != "factor-analysis" else likelihood,
        progress=sys.stderr.isatty(),
        **settings,
    )
    done = []
    click.secho(text.header(), bold=True)
    for row in work:
        click.echo(text.line(row))
        done.append(row)
    click.echo("\n" + "\n".join(text.footnotes(done, dataset, samples)))
    _write(out, done, dataset, {"data": name, "likelihood": likelihood, "guides": guides, **settings})
    click.echo(f"\nWritten: {out / 'compare.json'}, {out / 'compare.png'}")


def _write(out: Path, done: list[Row], dataset: data.Dataset, settings: dict) -> None:
    machine = {"processor": platform.processor() or platform.machine(), "threads": torch.get_num_threads()}
    machine |= {name: version(name) for name in ("torch", "pyro-ppl", "pyro_dlgm")}
    with whole(out / "compare.json") as path:
        path.write_text(json.dumps([row.plain() for row in done], indent=1, ensure_ascii=False))
    with whole(out / "config.json") as path:
        path.write_text(json.dumps(settings | {"machine": machine}, indent=1))
    with whole(out / "compare.png") as path:
        sheet(done, dataset.test).savefig(path, dpi=130, format="png")


if __name__ == "__main__":
    main()
