r"""Sites of traces: which of them are drawn, and whether those of guide and model match."""

from pyro import poutine
from torch import Tensor

DRAWS = "num_particles_vectorized"  # Pyro's name for a plate of draws


def is_drawn(site: dict) -> bool:
    r"""Returns whether a site of a trace is a sample, rather than the subsample of a plate."""
    return site["type"] == "sample" and not poutine.util.site_is_subsample(site)


def point_frame(site: dict, plate: str | None):
    r"""Returns the frame of the plate over points that contains a site, or `None` if none does.

    Arguments:
        site: of a trace, or the message of a handler.
        plate: the name of the plate; `None`: any plate at dimension −1.
    """
    frames = site["cond_indep_stack"]
    return next((f for f in frames if (f.dim == -1 if plate is None else f.name == plate)), None)


def plate_of(program, guide) -> str | None:
    r"""Returns the name of the plate over points, of the program or else of the guide; `None` if neither has one."""
    own = getattr(program, "plate", None)  # of a user's module, this may be a plate, or a number
    return own if isinstance(own, str) else getattr(guide, "program_plate", None)


def depth_of(guide) -> int:
    r"""Returns how many dimensions the plates of the program take, if the guide has traced it; else 1."""
    return getattr(guide, "program_depth", 1)


def summed(values: Tensor, dims: list[int]) -> Tensor:
    r"""Returns the sum over these axes, which are kept; without axes, the values themselves."""
    return values.sum(dims, keepdim=True) if dims else values


def check_latents(model_trace, guide_trace) -> None:
    r"""Raises a `ValueError` if the guide lacks a latent of the model, whose q would silently be the prior."""
    drawn = [name for name, site in guide_trace.nodes.items() if is_drawn(site)]
    missing = [name for name, site in model_trace.nodes.items() if is_drawn(site) and not site["is_observed"]]
    missing = [name for name in missing if name not in guide_trace.nodes]
    if missing:
        raise ValueError(
            f"the guide samples {', '.join(map(repr, drawn)) or 'nothing'}; expected "
            f"{', '.join(map(repr, missing))} as well, which the model samples: give the guide the model's name, such "
            f"as latent={missing[0]!r}"
        )


def check_plates(model_trace, guide_trace, plate: str | None) -> None:
    r"""Raises a `ValueError` if a latent of points in one program is outside the plate over data in the other."""
    for name, site in guide_trace.nodes.items():
        other = model_trace.nodes.get(name)
        if other is None or not is_drawn(site):
            continue
        inside = [point_frame(s, plate) is not None for s in (other, site)]
        if inside[0] != inside[1]:
            where, lacks = ("model", "guide") if inside[0] else ("guide", "model")
            raise ValueError(
                f"{name!r} is in {named(plate)} in the {where}, and outside of it in the {lacks}; expected one plate "
                "over data, of one name, in both programs"
            )


def named(plate: str | None) -> str:
    r"""Returns the plate over data in words, for errors."""
    return "a plate at dimension -1" if plate is None else f"the plate {plate!r}"


def check_broadcast(trace) -> None:
    r"""Raises a `ValueError` if a site has more axes than its plates: axes of samples would be summed twice."""
    for name, site in trace.nodes.items():
        if not is_drawn(site) or site["infer"].get("_deterministic"):
            continue
        depth = max((-f.dim for f in site["cond_indep_stack"] if f.vectorized), default=0)
        shape = site["fn"].batch_shape
        if any(size > 1 for size in shape[: max(0, len(shape) - depth)]):
            raise ValueError(
                f"site {name!r} has the batch shape {tuple(shape)} in plates of {depth} axes; expected no further one: "
                "with several samples, write code that broadcasts to the left, z.unsqueeze(-2) @ W for z @ W"
            )


def check_reparametrized(guide_trace) -> None:
    r"""Raises a `NotImplementedError` if a site of the guide has no reparametrized samples."""
    for name, site in guide_trace.nodes.items():
        if is_drawn(site) and not site["fn"].has_rsample:
            raise NotImplementedError(
                f"site {name!r} of the guide is a {type(site['fn']).__name__}, which has no reparametrized samples; "
                "use objectives.Trace_ELBO, which falls back to the score function"
            )
