r"""Help of the commands: options under headings, unabridged summaries, examples."""

import click

WIDTH = 100  # characters of a line, at most
HEADINGS = {
    "Data": ("name", "data_root", "key", "labels", "given", "layout", "size", "grey", "binarization", "num_test")
    + ("num_val", "split_seed", "download", "workers", "points"),
    "Model": ("likelihood", "latents", "prior", "components", "missingness", "w"),
    "Guide": ("guide", "guides"),
    "Optimization": ("objective", "epochs", "gradients", "batch_size", "lr", "row_lr", "schedule", "e_steps")
    + ("clip_norm", "compile", "precision", "warmup", "patience"),
    "Scores": ("iwae", "samples", "ais", "gaps", "certified", "chains", "temperatures", "tol"),
    "Picture": ("num",),
    "Run": ("seed", "seeds", "jobs", "device", "config", "out", "resume", "stretch"),
    "Help": ("help",),
}


class Taught(click.Command):
    r"""Creates a command whose help has its options under `HEADINGS`, and examples at the end.

    Arguments:
        examples: command lines, each with what it does.
        settings: as of `click.Command`.
    """

    def __init__(self, *arguments, examples: dict[str, str], **settings):
        super().__init__(*arguments, **settings)
        self.examples = examples

    def get_short_help_str(self, limit: int = 45) -> str:
        r"""Returns the first paragraph of the help, unabridged."""
        return " ".join((self.help or "").partition("\n\n")[0].split())

    def format_options(self, ctx, formatter) -> None:
        r"""Writes the options under their headings."""
        named = {option.name: option.get_help_record(ctx) for option in self.get_params(ctx)}
        for heading, names in HEADINGS.items():
            records = [named[name] for name in names if named.get(name)]
            if records:
                with formatter.section(heading):
                    formatter.write_dl(records)

    def format_epilog(self, ctx, formatter) -> None:
        r"""Writes the examples."""
        with formatter.section("Examples"):
            for line, what in self.examples.items():
                formatter.write_text(f"# {what}")
                formatter.write(f"{'':{formatter.current_indent}}{line}\n")  # not wrapped, so that it can be copied
