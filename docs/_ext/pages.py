r"""Lists of pages with a line each, of those that are there: the tutorials."""

from nested import parsed
from sphinx.errors import ExtensionError
from sphinx.util.docutils import SphinxDirective


class Pages(SphinxDirective):
    r"""The pages of this folder that are there, each with what it teaches: lines ``name: text``, one for each page."""

    has_content = True

    def run(self):
        folder = self.env.docname.rpartition("/")[0]
        there = {name.removeprefix(f"{folder}/") for name in self.env.found_docs if name.startswith(f"{folder}/")}
        lines = dict(line.split(": ", 1) for line in self.content)
        if missing := there - set(lines) - {"index"}:
            raise ExtensionError(f"{self.env.docname} says nothing about {', '.join(sorted(missing))}")
        names = [name for name in lines if name in there]
        text = [line for name in names for line in (f"1. [](./{name}.md): {lines[name]}", "")]
        toctree = ["```{toctree}", ":hidden:", "", *names, "```"] if names else []
        return parsed(self, text + toctree).children


def setup(app):
    app.add_directive("pages", Pages)
    return {"parallel_read_safe": True}
