r"""Markdown that a directive makes, read as a part of its page."""

from collections.abc import Iterable

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.util.docutils import SphinxDirective


def parsed(directive: SphinxDirective, lines: Iterable[str]) -> nodes.container:
    r"""The lines as nodes, in a container that does not belong to the page: its children do."""
    node = nodes.container()
    directive.state.nested_parse(StringList(list(lines), source=""), directive.content_offset, node)
    return node
