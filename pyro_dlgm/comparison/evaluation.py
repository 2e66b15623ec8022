r"""The sections of a run's ``evaluation.json`` as rows and remarks, for the terminal and for the report."""

from collections.abc import Iterator

from ..evaluate.marginal.certificate import NOT_CERTIFIED, verdicts
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


def certificate(sections: dict[str, dict], name: str) -> dict | None:
    r"""The BDMC gap for a section: it is measured once, on test points, for whatever points the section is of."""
    return sections[name].get("bdmc") or sections.get("test_gaps", {}).get("bdmc")


def remarks(section: dict, bdmc: dict | None = None) -> Iterator[str]:
    r"""Yields what to know beside the scores: what is missing, what has not converged, what the gaps say.

    Arguments:
        section: of ``evaluation.json``.
        bdmc: the `certificate` to use where the section has none.
    """
    for reason in dict.fromkeys(section.get("reasons", {}).values()):
        names = ", ".join(TITLES.get(n, n) for n, r in section["reasons"].items() if r == reason)
        yield f"No {names}: {reason}."
    if section.get("unconverged"):
        yield f"The E-step of {section['unconverged']} of {section['points']} points had not converged."
    if (section.get("pareto_k", {}).get("0.95") or 0.0) > 0.7:
        yield "Where k̂ is above 0.7 the IWAE is not to be trusted."
    yield from verdicts(section, section.get("bdmc", bdmc))
    said = ("the E-step", "no BDMC", NOT_CERTIFIED)  # above
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
        said += [f"{part} {remark}" for remark in remarks(section, certificate(sections, name))]
    return said
