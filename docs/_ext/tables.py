r"""Tables made from the package, the options of `fit` and the columns of a comparison; the cells of all tables."""

from docutils import nodes
from nested import parsed
from sphinx.util.docutils import SphinxDirective


class Table(SphinxDirective):
    r"""A table in Markdown, from a function that returns its rows, the titles first."""

    def rows(self) -> list[tuple[str, ...]]:
        raise NotImplementedError

    def run(self) -> list[nodes.Node]:
        titles, *rows = self.rows()
        lines = [titles, ["---"] * len(titles), *rows]
        return parsed(self, (f"| {' | '.join(line)} |" for line in lines)).children


class Options(Table):
    r"""The options of `fit` with their names on the command line."""

    def rows(self):
        from pyro_dlgm import fit
        from pyro_dlgm.cli.options import DEFAULTS, FIT
        from pyro_dlgm.training.options import CHECKS, options_of

        yield "in Python", "default", "on the command line", "meaning", "expected"
        for name, option in options_of(fit).items():
            default = DEFAULTS.get(name)
            shell = "" if name not in FIT else f"`--{name.replace('_', '-')}`"
            shell += "" if default is None else f", default {default}"
            yield f"`{name}`", f"`{option.default!r}`", shell, option.meaning, CHECKS[name].expected


class Columns(Table):
    r"""The columns of a comparison, and what each keeps in ``compare.json``."""

    def rows(self):
        from pyro_dlgm.comparison.columns import COLUMNS

        yield "column", "in `compare.json`"
        for column in COLUMNS:
            title = column.title or "(in the footnotes)"
            yield title, ", ".join(f"`{name}`" for name in column.values) or f"`{column.title}`"


LONG = 60  # characters, from which on a cell must not become one word wide


def set_cells(app, page: nodes.document) -> None:
    r"""No line ends with ±, cells with sentences are marked, empty heads go."""
    for head in list(page.findall(nodes.thead)):
        if not head.astext().strip():
            head.parent.remove(head)
    for cell in page.findall(nodes.entry):
        cell["classes"] += ["long"] if len(cell.astext()) > LONG else []
        for text in list(cell.findall(nodes.Text)):
            text.parent.replace(text, nodes.Text(text.replace("± ", "±\N{NO-BREAK SPACE}")))


def setup(app):
    app.add_directive("options-table", Options)
    app.add_directive("columns-table", Columns)
    app.connect("doctree-read", set_cells)
    return {"parallel_read_safe": True}
