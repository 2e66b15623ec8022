r"""Warns of links between the pages, those of the source included, that lead to no page or to no place of one."""

import re
from pathlib import Path

from sphinx.util import logging

PLACE = re.compile(r"\bid=\"([^\"]+)\"")
LINK = re.compile(r"<a\b[^>]*?\bhref=\"([^\":#?]*)(?:#([^\"]*))?\"")


def dead(folder: Path) -> list[tuple[str, str]]:
    r"""The pages of a folder with links that lead nowhere, and these links."""
    texts = {page.resolve(): page.read_text(encoding="utf-8") for page in folder.rglob("*.html")}
    places = {page: {"", *PLACE.findall(text)} for page, text in texts.items()}
    found = []
    for page, text in texts.items():
        for path, place in set(LINK.findall(text)):
            goal = (page.parent / path).resolve() if path else page
            if not goal.exists() or place not in places.get(goal, {place}):
                found.append((page.name, f"{path}#{place}"))
    return sorted(found)


def check(app, exception) -> None:
    if exception or app.builder.format != "html":
        return
    for page, link in dead(Path(app.outdir)):
        logging.getLogger(__name__).warning("%s, unless left by an earlier build, has a dead link: %s", page, link)


def setup(app):
    app.connect("build-finished", check)
    return {"parallel_read_safe": True}
