r"""Warns of a page that would fetch a script, a style or an image when it is read."""

import re
from pathlib import Path

from sphinx.util import logging

FETCHED = re.compile(
    r"<(?:script|img|iframe)\b[^>]*\bsrc=\"(?:https?:)?//[^>]*>|<link\b[^>]*\bhref=\"(?:https?:)?//[^>]*>"
)


def check(app, exception) -> None:
    if exception or app.builder.format != "html":
        return
    for page in Path(app.outdir).rglob("*.html"):
        for tag in set(FETCHED.findall(page.read_text(encoding="utf-8"))):
            logging.getLogger(__name__).warning("%s fetches %s", page.name, tag)


def setup(app):
    app.connect("build-finished", check)
    return {"parallel_read_safe": True}
