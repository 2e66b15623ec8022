r"""One frozen convolutional decoder, all guides: F(q), F(q*), log p(x), both gaps, gradients, milliseconds a point."""

import argparse
import json
import time
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path

import measure
import published_decoder
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator
from torch import Tensor

from pyro_dlgm import DLGM, data, evaluate, fit, guides, likelihoods, nets, priors
from pyro_dlgm.plots.palette import colour
from pyro_dlgm.runs.files import whole
from pyro_dlgm.seeding import forked

STEPS = (0, 1, 5, 20)
REFINED = [f"semi-amortized, {k} steps" for k in STEPS]
SHOWN = ["amortized", "amortized, full rank", "flow", "laplace", "mean field", "full rank"]  # beside the refined ones
IMAGES = {"mnist": data.mnist, "fashion-mnist": data.fashion_mnist}


def arguments() -> argparse.Namespace:
    r"""The command line."""
    parser = argparse.ArgumentParser(
        description="Trains a convolutional Bernoulli decoder with an encoder, or reads a published one, freezes it, "
        "trains encoders for it, and compares guides on test images by F(q), F(q*) of their family and log p(x), "
        "certified by BDMC. Each row is kept in its file, and made anew only if the file is not there. Wanted: "
        "the amortization gap of the semi-amortized guide falls with its steps, within 2 standard errors.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--data", choices=IMAGES, default="mnist", help="dynamically binarized images, to train on")
    parser.add_argument("--data-root", required=True, help="folder that holds them; of --decoder, the .mat files")
    parser.add_argument("--decoder", help="file aft_vae_params.npz: that decoder, on statically binarized MNIST")
    parser.add_argument("--latents", type=int, default=32, help="of a decoder that is trained here")
    parser.add_argument("--epochs", type=int, default=20, help="passes through the training images, for each training")
    parser.add_argument("--train", type=int, help="training images; all of them if left out")
    parser.add_argument("--points", type=int, default=128, help="test images")
    parser.add_argument("--samples", type=int, default=2000, help="samples of each F")
    parser.add_argument("--tol", type=float, default=0.1, help="nats by which the mean of log p(x) may be off")
    parser.add_argument("--rows", help="rows, with semicolons between; all of them if left out")
    parser.add_argument("--threads", type=int, help="threads of torch; its own choice if left out")
    parser.add_argument("--seed", type=int, default=0, help="seed of all that is random")
    parser.add_argument("--beside", nargs="*", default=[], help="--out of earlier calls, panels of one figure")
    parser.add_argument("--out", default="runs/bench/guides_zoo", help="folder for rows, trainings, table and figure")
    return parser.parse_args()


class Zoo:
    r"""Creates the frozen model, test images, and guides by name, each of them trained at its first use.

    Arguments:
        a: the arguments of the command line.
    """

    def __init__(self, a: argparse.Namespace):
        self.a = a
        if a.decoder:
            self.train, test = (published_decoder.images(a.data_root, part) for part in ("train", "test"))
            self.model, self.transform = published_decoder.decoder(a.decoder), None
        else:
            found = IMAGES[a.data](a.data_root)
            self.train, self.transform, test = found.train, found.transform, found.test
            self.model = None
        self.train, self.x = self.train[: a.train], test[: a.points]
        self.model = self.model or self._decoder()
        self.D = self.model.prior.latent_dim

    def _decoder(self) -> DLGM:
        with forked(self.a.seed):
            net = nets.ConvDecoder(self.a.latents, (1, 28, 28))
            model = DLGM(priors.StandardNormal(self.a.latents), likelihoods.Bernoulli(net))
            encoder = guides.Amortized(nets.ConvEncoder((1, 28, 28), 256), self.a.latents)
        self._fit(model, encoder, "decoder")
        return model.requires_grad_(False)

    def _fit(self, model, guide, name: str) -> None:
        settings = {"epochs": self.a.epochs, "seed": self.a.seed, "transform": self.transform, "progress": True}
        fit(model, guide, self.train, out=Path(self.a.out, name), resume=True, **settings)

    def encoder(self, name: str) -> guides.Amortized:
        r"""A guide with an encoder, trained for the frozen decoder or as an earlier call left it."""
        with forked(self.a.seed + 1):
            net = nets.ConvEncoder((1, 28, 28), 256)
            guide = guides.Flow(net, self.D) if name == "flow" else guides.Amortized(net, self.D, name)
        self._fit(self.model, guide, f"encoder_{name}")
        return guide.eval()

    def rows(self) -> dict[str, tuple[Callable, str | None]]:
        r"""By name a function that returns the guide, and the family whose best member is known, if any."""
        n, D = len(self.x), self.D
        found = {
            "amortized": (partial(self.encoder, "mean_field"), "mean_field"),
            "amortized, full rank": (partial(self.encoder, "full_rank"), "full_rank"),
            "flow": (partial(self.encoder, "flow"), "flow"),
        }
        for name, k in zip(REFINED, STEPS, strict=True):
            found[name] = partial(self._refined, k), "mean_field"
        found["laplace"] = lambda: guides.Laplace(self.model).eval(), None
        found["mean field"] = lambda: guides.MeanField(n, D), None
        found["full rank"] = lambda: guides.FullRank(n, D), None
        found["chains"] = lambda: guides.Chain(self.model, n, D), None
        return found

    def bound(self, guide) -> list[float]:
        r"""F of each test point."""
        index = torch.arange(len(self.x))
        return evaluate.elbo(self.model, guide, self.x, index, self.a.samples, seed=self.a.seed + 3).tolist()

    def best(self, family: str) -> dict:
        r"""F(q*) of each test point, the largest of the family."""
        return {"f": self.bound(evaluate.infer(self.model, self.encoder(family), self.x, seed=self.a.seed))}

    def _refined(self, steps: int) -> guides.SemiAmortized:
        return guides.SemiAmortized(self.model, self.encoder("mean_field"), steps).eval()


def evidence(zoo: Zoo) -> dict:
    r"""log p(x) of each point, the same for all guides, with its certificate."""
    begun = time.perf_counter()
    found = evaluate.evidence(zoo.model, None, zoo.x, num_simulated=len(zoo.x), tol=zoo.a.tol, seed=zoo.a.seed)
    result = {"log_px": found.log_px.value.tolist(), "log_px_stderr": found.log_px.stderr.tolist()}
    result |= {"bdmc_gap": found.certificate.gap, "bdmc_stderr": found.certificate.stderr, "notes": found.notes}
    spent = {"num_temperatures": found.num_temperatures, "gradients": found.gradients_per_point}
    return result | spent | {"seconds": time.perf_counter() - begun}


def row(zoo: Zoo, make: Callable) -> dict:
    r"""F(q) of each point, and gradient evaluations and milliseconds a point of the E-step of these points."""
    guide, index = make(), torch.arange(len(zoo.x))
    spent, begun = guide.gradients, time.perf_counter()
    if guide.per_point:
        guide = evaluate.infer(zoo.model, guide, zoo.x, seed=zoo.a.seed)
        gradients = guide.convergence.gradients_per_point
    else:
        with torch.no_grad():
            guide.posterior(zoo.x, index)
        gradients = (guide.gradients - spent) / len(zoo.x)
    found = {"milliseconds": 1e3 * (time.perf_counter() - begun) / len(zoo.x), "gradients": gradients}
    return found | {"f": zoo.bound(guide) if guide.has_density else None}


def kept(file: Path, a: argparse.Namespace, make: Callable) -> dict:
    r"""What the file holds, or what is made and written there."""
    protocol = {name: value for name, value in vars(a).items() if name not in ("rows", "threads", "beside", "out")}
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        made = make() | {"protocol": protocol}
        with whole(file) as path:
            path.write_text(json.dumps(made) + "\n")
    found = json.loads(file.read_text())
    if found.pop("protocol", None) != protocol:
        raise SystemExit(f"{file} was made with other arguments; give another --out, or move it away")
    return found


def mean(values: Tensor) -> tuple[float, float]:
    r"""The mean over points and its standard error."""
    return float(values.mean()), float(values.std() / len(values) ** 0.5)


def summary(found: dict, truth: dict) -> dict:
    r"""Means with standard errors, of differences paired over the points; gaps in nats."""
    result = {name: found[name] for name in ("milliseconds", "gradients")}
    if found["f"] is None:
        return result
    f, best, log_px = (torch.tensor(v, dtype=torch.double) for v in (found["f"], found["f_best"], truth["log_px"]))
    result |= {"f": mean(f), "f_best": mean(best), "log_px": mean(log_px)}
    return result | {"approximation": mean(log_px - best), "amortization": mean(best - f), "total": mean(log_px - f)}


def monotone(rows: dict[str, dict]) -> bool:
    r"""Whether each further number of steps leaves no smaller F, within 2 paired standard errors."""
    bounds = [torch.tensor(rows[name]["f"], dtype=torch.double) for name in REFINED if name in rows]
    gains = [mean(b - a) for a, b in pairwise(bounds)]
    return all(gain > -2 * error for gain, error in gains)


def table(lines: dict[str, dict], truth: dict) -> str:
    r"""One line a guide."""
    text = [f"{'guide':26}{'F(q)':>10}{'F(q*)':>10}{'approx.':>14}{'amort.':>14}{'grads':>9}{'ms':>10}"]
    for name, r in lines.items():
        cells = f"{'':10}{'':10}{'':14}{'':14}"
        if "f" in r:
            gaps = "".join(f"{r[gap][0]:8.3f} ±{r[gap][1]:.2f}" for gap in ("approximation", "amortization"))
            cells = f"{r['f'][0]:10.3f}{r['f_best'][0]:10.3f}{gaps}"
        text.append(f"{name:26}{cells}{r['gradients']:9.0f}{r['milliseconds']:10.2f}")
    p = mean(torch.tensor(truth["log_px"]))
    gap = f"BDMC gap {truth['bdmc_gap']:.3f} ± {truth['bdmc_stderr']:.3f}"
    return "\n".join([*text, f"log p(x) {p[0]:.3f} ± {p[1]:.3f}, {gap}, {truth['seconds']:.0f} s"])


def picture(panels: dict[str, dict[str, dict]]) -> Figure:
    r"""What q lacks of log p(x), in nats, against milliseconds a point, an axis for each decoder."""
    figure = Figure(figsize=(1.2 + 3.6 * len(panels), 4.2), layout="constrained")
    axes = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
    for axis, (title, lines) in zip(axes, panels.items(), strict=True):
        shown = {name: r for name, r in lines.items() if "total" in r}
        for place, name in enumerate(SHOWN):
            if name in shown:
                _marks(axis, {name: shown[name]}, name, colour(place))
        if refined := {name: shown[name] for name in REFINED if name in shown}:
            _marks(axis, refined, "semi-amortized, 0 to 20 steps", colour(len(SHOWN)))
        axis.set(xscale="log", yscale="log", xlabel="milliseconds a point", title=title)
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("log p(x) − F(q), nats")
    axes[0].yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes[0].yaxis.set_major_formatter("{x:g}")
    axes[0].yaxis.set_minor_locator(NullLocator())
    legend = {label: line for axis in axes for line, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    figure.legend(legend.values(), legend, loc="outside lower center", ncols=min(4, 1 + len(panels)), fontsize=8)
    return figure


def _marks(axis, rows: dict[str, dict], label: str, color: str) -> None:
    gaps, errors = zip(*(r["total"] for r in rows.values()), strict=True)
    style = {"marker": "o", "ms": 5, "lw": 0.8, "color": color, "label": label}
    axis.errorbar([r["milliseconds"] for r in rows.values()], gaps, yerr=errors, **style)


def main() -> None:
    a = arguments()
    measure.use_threads(a.threads)
    out, zoo = Path(a.out, "rows"), Zoo(a)
    wanted = None if a.rows is None else [name.strip() for name in a.rows.split(";")]
    truth, rows = kept(out / "log_px.json", a, partial(evidence, zoo)), {}
    for name, (make, family) in zoo.rows().items():
        if wanted is not None and name not in wanted:
            continue
        found = kept(out / f"{name.replace(', ', '_').replace(' ', '_')}.json", a, partial(row, zoo, make))
        best = kept(out / f"best_{family}.json", a, partial(zoo.best, family)) if family else found
        rows[name] = found | {"f_best": best["f"]}
        print(f"{name}: done", flush=True)
    lines = {name: summary(found, truth) for name, found in rows.items()}
    print(table(lines, truth))
    print(f"{'ok    ' if monotone(rows) else 'FAILED'} the amortization gap falls with the steps, within 2 s.e.")
    print(f"Written: {measure.save(a.out, 'guides_zoo', arguments=vars(a), rows=lines, log_px=truth)}")
    files = {Path(folder).name: Path(folder, "guides_zoo.json") for folder in (*a.beside, a.out)}
    panels = {name: json.loads(file.read_text())["rows"] for name, file in files.items()}
    picture(panels).savefig(Path(a.out, "guides_zoo.png"), dpi=150)


if __name__ == "__main__":
    main()
