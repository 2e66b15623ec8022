r"""Sites of traces: which of them are drawn, and whether those of guide and model go together."""

from pyro import poutine
from torch import Tensor

DRAWS = "num_particles_vectorized"  # the name that Pyro gives a plate of draws


def is_drawn(site: dict) -> bool:
    r"""Whether a site of a trace is a sample, and not the subsample of a plate."""
    return site["type"] == "sample" and not poutine.util.site_is_subsample(site)


def summed(values: Tensor, dims: list[int]) -> Tensor:
    r"""The sum over these axes, each of which stays; over none, the values."""
    return values.sum(dims, keepdim=True) if dims else values


def check_latents(model_trace, guide_trace) -> None:
    r"""Raises a `ValueError` if a latent of the model is none of the guide's: its q would be the prior, silently."""
    drawn = [name for name, site in guide_trace.nodes.items() if is_drawn(site)]
    missing = [name for name, site in model_trace.nodes.items() if is_drawn(site) and not site["is_observed"]]
    missing = [name for name in missing if name not in guide_trace.nodes]
    if missing:
        raise ValueError(
            f"the guide samples {', '.join(map(repr, drawn)) or 'nothing'}; expected {', '.join(map(repr, missing))}, "
            f"too, which the model samples: give the guide the model's name, latent={missing[0]!r}, say"
        )


def check_broadcast(trace) -> None:
    r"""Raises a `ValueError` if a site has more axes than its plates: those of samples would be summed twice."""
    for name, site in trace.nodes.items():
        if not is_drawn(site) or site["infer"].get("_deterministic"):
            continue
        depth = max((-f.dim for f in site["cond_indep_stack"] if f.vectorized), default=0)
        shape = site["fn"].batch_shape
        if any(size > 1 for size in shape[: max(0, len(shape) - depth)]):
            raise ValueError(
                f"site {name!r} has the batch shape {tuple(shape)} in plates of {depth} axes; expected no further one: "
                "where there are several samples, write what broadcasts to the left, z.unsqueeze(-2) @ W for z @ W"
            )


def check_reparametrized(guide_trace) -> None:
    r"""Raises a `NotImplementedError` if a site of the guide has no reparametrized samples."""
    for name, site in guide_trace.nodes.items():
        if is_drawn(site) and not site["fn"].has_rsample:
            raise NotImplementedError(
                f"site {name!r} of the guide is a {type(site['fn']).__name__}, which has no reparametrized samples; "
                "use objectives.Trace_ELBO, which falls back to the score function"
            )
