r"""The scores of one pair on test points, block by block: what ``pyro-dlgm evaluate`` writes."""

import json
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from .. import evaluate
from ..data.transforms import Dequantize
from ..guides.per_point import FullRank
from ..runs.files import whole
from ..runs.plain import finite
from ..runs.run import RunError
from ..seeding import forked

BLOCK = {True: 500, False: 100}  # points that are scored together; an E-step has its own cost for each block
QUANTILES = (0.05, 0.5, 0.95)
NO_DENSITY = "q is a point mass or a chain: it has no density, so no F(q) either; log_joint is no bound on log p(x)"


def blocks(guide, x: Tensor) -> tuple[Tensor, ...]:
    r"""The points x (M, ...) in the blocks that `block_scores` takes."""
    return x.split(BLOCK[getattr(guide, "per_point", False)])


def e_step(model, guide, x: Tensor, seed: int):
    r"""`evaluate.infer` for those who count in their own books who has not converged: it does not warn."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return evaluate.infer(model, guide, x, seed=seed)


def full_rank(model, x: Tensor, seed: int) -> FullRank:
    r"""A full-rank q by an E-step on the points x (M, ...), which judges w: it starts anew, apart from any guide."""
    with forked():
        start = FullRank(1, model.prior.latent_dim, latent=model.latent, plate=model.plate).to(x)
    return e_step(model, start, x, seed)


def standard_error(values: Tensor) -> float | None:
    r"""The standard error of the mean of values (M,); `None` for a single one."""
    return float(values.std() / len(values) ** 0.5) if len(values) > 1 else None


def block_scores(model, guide, parts: tuple[Tensor, ...], num_samples: int, seed: int) -> Iterator[dict[str, Tensor]]:
    r"""Scores of each point, block by block, in nats per point.

    A guide with parameters for each point gets rows for the test points first, with w frozen (`evaluate.infer`).

    Arguments:
        model, guide: the pair.
        parts: blocks of points (B, ...).
        num_samples: K of IWAE-K.
        seed: block n is scored under seed + n.

    Yields:
        ``elbo``, ``iwae``, ``ess``, ``pareto_k``, each (B,), or ``log_joint`` where q has no density; and, behind an
        E-step, ``late``: whether it had not converged.
    """
    for number, x in enumerate(parts, seed):
        q, scores = guide, {}
        if getattr(guide, "per_point", False):
            q = e_step(model, guide, x, number)
            scores["late"] = ~q.convergence.converged
        index = torch.arange(len(x), device=x.device)
        if getattr(q, "has_density", True):
            table = evaluate.log_weights(model, q, x, index, num_samples, seed=number)
            if table.isnan().any():
                raise FloatingPointError("log-weights of test points are not numbers: the run has diverged; lower lr")
            scores |= {"elbo": table.mean(0), "iwae": evaluate.log_mean_exp(table)}
            scores |= {"ess": evaluate.ess(table), "pareto_k": evaluate.pareto_k(table)}
        else:
            scores["log_joint"] = evaluate.log_joint(model, q, x, index, seed=number)
        yield {name: values.cpu() for name, values in scores.items()}


def bits_per_dim(likelihood, transform, num_pixels: int) -> Callable[[float], float] | None:
    r"""Bits per dimension as a function of log p(x) in nats per point; `None` where there is no such number.

    It bounds the length of a code for whole numbers v: P values with L levels each. A likelihood that is a mass on the
    levels gives −log p(x) / (P ln 2); a density of dequantized values, x = (v + u) / L, (P ln L − log p(x)) / (P ln 2).
    A density of values that were not dequantized bounds no code, and of binary pixels one reports nats.

    Arguments:
        likelihood: of the model; a mass on the levels has a ``bits_per_dim`` of its own.
        transform: of the data set.
        num_pixels: the number P of values of a point.
    """
    if hasattr(likelihood, "bits_per_dim"):
        return lambda log_p: likelihood.bits_per_dim(log_p, num_pixels)
    if isinstance(transform, Dequantize):
        return lambda log_p: transform.bits_per_dim(log_p, num_pixels)
    return None


def summary(parts: list[dict[str, Tensor]], bits: Callable[[float], float] | None = None) -> dict:
    r"""Means with standard errors over points, quantiles of the diagnostics, and bits per dimension where they exist.

    Arguments:
        parts: of `block_scores`.
        bits: of `bits_per_dim`.
    """
    points = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    result: dict = {"points": len(next(iter(points.values())))}
    for name in points.keys() & {"elbo", "iwae", "log_joint"}:
        values = points[name].double()
        result[name] = {"mean": float(values.mean()), "standard_error": standard_error(values)}
        if bits is not None and name != "log_joint":
            result[name]["bits_per_dim"] = bits(float(values.mean()))
    for name in points.keys() & {"ess", "pareto_k"}:
        values = points[name].double().clamp(-1e300, 1e300)  # JSON has no infinity
        result[name] = {str(q): float(values.quantile(q)) for q in QUANTILES}
    if "log_joint" in points:
        result["reasons"] = dict.fromkeys(("elbo", "iwae"), NO_DENSITY)
    if "late" in points:
        result["unconverged"] = int(points["late"].sum())
    return result


def lines(result: dict, num_samples: int) -> list[str]:
    r"""The summary as lines to read."""
    titles = {"elbo": "ELBO", "iwae": f"IWAE-{num_samples}", "log_joint": "log p(x, t)"}
    said = []
    for name in titles.keys() & result.keys():
        value, bits = result[name], result[name].get("bits_per_dim")
        error = "" if value["standard_error"] is None else f" ± {value['standard_error']:.2f}"
        tail = "" if bits is None else f"   {bits:.3f} bits per dimension"
        said.append(f"{titles[name]:12} {value['mean']:10.2f}{error} nats per point{tail}")
    said = sorted(said)
    for name, title in (("ess", f"ESS of {num_samples}"), ("pareto_k", "Pareto k-hat")):
        if name in result:
            low, middle, high = result[name].values()
            said.append(f"{title:12} {middle:10.2f}   ({low:.2f} to {high:.2f} between the 5% and 95% quantiles)")
    if "pareto_k" in result and result["pareto_k"][str(QUANTILES[-1])] > 0.7:
        said.append("Where k-hat is above 0.7 the IWAE is not to be trusted.")
    if result.get("unconverged"):
        said.append(f"The E-step of {result['unconverged']} of {result['points']} points had not converged.")
    return said + [f"No {name.upper()}: {reason}." for name, reason in result.get("reasons", {}).items()]


def add(file: Path, section: str, result: dict) -> None:
    r"""Puts one section into a JSON file and leaves the others; the file is replaced whole or not at all.

    Raises:
        RunError: if what is there is no JSON, or it cannot be written.
    """
    try:
        there = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
        text = json.dumps({**there, section: finite(result)}, indent=1, ensure_ascii=False)
        with whole(file) as path:
            path.write_text(text, encoding="utf-8")
    except (ValueError, TypeError):
        raise RunError(f"{file} is not JSON of this program; move it away") from None
    except OSError as error:
        raise RunError(f"cannot write {file} ({error.strerror})") from error
