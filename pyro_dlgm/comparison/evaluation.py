r"""The sections of a run's ``evaluation.json`` as rows and remarks, for the terminal and for the report."""

from collections.abc import Iterator

from .columns import number

TITLES = {"elbo": "ELBO", "iwae": "IWAE", "log_joint": "log p(x, t), no bound", "ess": "ESS", "pareto_k": "Pareto k̂"}
TITLES |= {"log_px": "log p(x)", "reached": "F(q)", "total": "KL(q ‖ posterior)", "ais": "AIS"}
TITLES |= {"approximation": "approximation gap", "amortization": "amortization gap"}


def scores(section: dict) -> Iterator[tuple[str, str, str, str]]:
    r"""Yields the scores of a section as text: title, nats per point, error or quantiles, bits per dimension."""
    for key, value in section.items():
        title = f"IWAE-{section['num_samples']}" if key == "iwae" and "num_samples" in section else TITLES.get(key, key)
        if isinstance(value, dict) and "mean" in value:
            bits = f"{value['bits_per_dim']:.3f}" if "bits_per_dim" in value else "–"
            yield title, number(value["mean"]), number(value.get("standard_error")), bits
        elif key == "bdmc":
            yield "BDMC gap", number(value["gap"], digits=3), number(value["standard_error"], digits=3), "–"
        elif isinstance(value, dict) and len(value) == 3 and key in ("ess", "pareto_k"):
            low, middle, high = map(number, value.values())
            yield f"{title}, median", middle, f"{low} to {high}", "–"


def remarks(section: dict) -> Iterator[str]:
    r"""Yields what to know beside the scores: what is missing, what has not converged, what the gaps say."""
    for reason in dict.fromkeys(section.get("reasons", {}).values()):
        names = ", ".join(TITLES.get(n, n) for n, r in section["reasons"].items() if r == reason)
        yield f"No {names}: {reason}."
    if section.get("unconverged"):
        yield f"The E-step of {section['unconverged']} of {section['points']} points had not converged."
    if (section.get("pareto_k", {}).get("0.95") or 0.0) > 0.7:
        yield "Where k̂ is above 0.7 the IWAE is not to be trusted."
    if "total" in section:
        yield _verdict(section)
    # The E-step is said above; BDMC is measured once, on test points, for whatever points the section is of.
    said = ("the E-step", "no BDMC")
    yield from (f"Note: {note}." for note in section.get("notes", ()) if not note.startswith(said))


def lines(sections: dict[str, dict]) -> list[str]:
    r"""The sections as lines to read, in nats per point."""
    said = []
    for name, section in sections.items():
        part = f"{name.partition('_')[0]:6}"
        said.append(f"{part} {section['points']} points, nats per point")
        for title, value, spread, bits in scores(section):
            known = f" ± {spread}" if spread != "–" else ""
            spread = known if " to " not in spread else f"   ({spread} between the 5% and 95% quantiles)"
            said.append(f"{part} {title:22} {value:>9}{spread}" + f"   {bits} bits per dimension" * (bits != "–"))
        said += [f"{part} {remark}" for remark in remarks(section)]
    return said


def _verdict(result: dict) -> str:
    r"""Which part of the gap is the larger, if the errors allow to say so."""
    family, parameters = result["approximation"], result["amortization"]
    if None in (family["mean"], parameters["mean"], result["total"]["mean"]):
        return "The gap is not finite: look at the scores of single points."
    error = (family["standard_error"] or 0) + (parameters["standard_error"] or 0)
    # KL(q || posterior) is never negative: how much it varies over points says nothing of whether it is zero.
    if result["total"]["mean"] <= max(0.1, 2 * (result["total"]["monte_carlo_error"] or 0)):
        return "q is the posterior, as far as this tells."
    if abs(family["mean"] - parameters["mean"]) <= error:
        return "Family and parameters lose about the same: look at both."
    if family["mean"] > parameters["mean"]:
        return f"The family ({result['own_family']}) loses most: a richer q would gain most."
    return "The parameters of q lose most: a better encoder, or a longer E-step, would gain most."
