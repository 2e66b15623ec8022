r"""Warns of links between the pages, those of the source included, that lead to no page or to no place of one."""

import re
from collections.abc import Iterable
from html import unescape
from pathlib import Path
from urllib.parse import unquote

from sphinx.util import logging

PLACE = re.compile(r"\bid=\"([^\"]+)\"")
LINK = re.compile(r"<a\b[^>]*?\bhref=\"([^\":#?]*)(?:#([^\"]*))?\"")


def dead(pages: Iterable[Path]) -> list[tuple[str, str]]:
    r"""Those of the pages with links that lead nowhere, and these links."""
    texts = {page.resolve(): page.read_text(encoding="utf-8") for page in pages}
    places = {page: {"", *PLACE.findall(text)} for page, text in texts.items()}
    found = []
    for page, text in texts.items():
        for path, place in {tuple(unquote(unescape(part)) for part in link) for link in LINK.findall(text)}:
            goal = (page.parent / path).resolve() if path else page
            if not goal.exists() or place not in places.get(goal, {place}):
                found.append((page.name, f"{path}#{place}"))
    return sorted(found)


def check(app, exception) -> None:
    if exception or app.builder.format != "html":
        return
    # The folder may hold pages that an earlier build has left.
    sources = (f"_modules/{name.replace('.', '/')}" for name in getattr(app.env, "_viewcode_modules", ()))
    pages = (Path(app.outdir, f"{name}.html") for name in (*app.env.found_docs, *sources, "genindex", "py-modindex"))
    for page, link in dead(page for page in pages if page.exists()):
        logging.getLogger(__name__).warning("%s has a dead link: %s", page, link)


def setup(app):
    app.connect("build-finished", check)
    return {"parallel_read_safe": True}
