r"""Tables made from the package, the options of `fit` and the columns of a comparison; cells and long names of all."""

import re

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


LINE, COLUMN = 30, 12  # characters of a name that fit into a line, or a column of a table, of a narrow screen
SHORT, LONG = 16, 60  # characters, up to and from which on a cell may, or must not, become one word wide
# Of names, where a line may end: after a/ a( a= a., before _part and Part.
PLACES = re.compile(r"(?<=\w[/(=.])(?=\w{3})|(?<=[a-z0-9]{2})(?=_[a-z]{3}|[A-Z][a-z]{2})")


def breakable(text: nodes.Text) -> list[nodes.Node]:
    r"""The text with places where a narrow screen may break its long names."""
    pieces = PLACES.split(text) if max(map(len, text.split()), default=0) > COLUMN else [text]
    broken = [nodes.raw("", '<wbr class="narrow">', format="html")]
    return [node for piece in pieces for node in [*broken, nodes.Text(piece)]][1:]


def set_code(app, page: nodes.document) -> None:
    r"""Code with a name that may be longer than a line is marked."""
    for code in page.findall(nodes.literal):
        code["classes"] += ["long"] if max(map(len, code.astext().split()), default=0) > LINE else []


def set_cells(app, page: nodes.document) -> None:
    r"""No line ends with ±, short cells and cells with sentences are marked, long names may break, empty heads go."""
    for head in list(page.findall(nodes.thead)):
        if not head.astext().strip():
            head.parent.remove(head)
    for cell in page.findall(nodes.entry):
        length = len(cell.astext())
        cell["classes"] += ["long"] if length > LONG else ["short"] if length <= SHORT else []
        for text in list(cell.findall(nodes.Text)):
            if not isinstance(text.parent, nodes.math):
                text.parent.replace(text, breakable(nodes.Text(text.replace("± ", "±\N{NO-BREAK SPACE}"))))


def setup(app):
    app.add_directive("options-table", Options)
    app.add_directive("columns-table", Columns)
    app.connect("doctree-read", set_code)
    app.connect("doctree-read", set_cells)
    return {"parallel_read_safe": True}
