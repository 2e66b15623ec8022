r"""The page of the command line, made from the commands: usage, text, and options in the groups of ``--help``."""

import inspect
import re
from contextlib import contextmanager

import click
from nested import parsed
from sphinx.util.docutils import SphinxDirective


class Recorder(click.HelpFormatter):
    r"""Creates a formatter that keeps the sections of ``--help`` and their rows, as (title, [(option, text)])."""

    def __init__(self):
        super().__init__()
        self.sections: list[tuple[str, list[tuple[str, str]]]] = []

    @contextmanager
    def section(self, name):
        self.sections.append((name, []))
        yield

    def write_dl(self, rows, *args, **kwargs):
        self.sections[-1][1].extend(rows)


def sections(command: click.Command, context: click.Context) -> list[tuple[str, list[tuple[str, str]]]]:
    r"""The sections of a command's help that have rows."""
    recorder = Recorder()
    command.format_options(context, recorder)
    return [(title, rows) for title, rows in recorder.sections if rows]


def coded(text: str) -> str:
    r"""Text with its options as code, which keeps their dashes."""
    parts = re.split(r"(`[^`]*`)", text.replace("*", r"\*"))
    parts[::2] = [re.sub(r"(?<![\w-])--[a-z][\w-]*", r"`\g<0>`", part) for part in parts[::2]]
    return "".join(parts)


def paragraphs(text: str) -> list[str]:
    r"""The help of a command as Markdown: a paragraph after ``\b`` keeps its lines."""
    lines = []
    for paragraph in text.split("\n\n"):
        kept = paragraph.removeprefix("\b\n")
        lines += [*(("```text", *kept.splitlines(), "```") if kept != paragraph else coded(kept).splitlines()), ""]
    return lines


def option(name: str, text: str) -> list[str]:
    r"""An option as Markdown, which others can refer to, its default in a line."""
    said, _, default = text.partition("  [default: ")
    default = re.sub(r"\]\s*\[", "; ", default.removesuffix("]"))
    return [
        f"````{{option}} {name.replace(' / ', ', ')}",
        coded(said),
        *(("", f"Default: {coded(default)}.") if default else ()),
        "````",
        "",
    ]


def described(command: click.Command, context: click.Context) -> list[str]:
    r"""A command as Markdown."""
    usage = " ".join([context.command_path, *command.collect_usage_pieces(context)])
    lines = ["```text", usage, "```", "", *paragraphs(inspect.cleandoc(command.help))]
    for title, rows in sections(command, context):
        if title != "Commands":
            lines += [f"**{title}**", "", f"```{{program}} {context.command_path}", "```", ""]
            lines += [line for row in rows for line in option(*row)]
    return lines


class CommandLine(SphinxDirective):
    r"""A command of ``pyro-dlgm`` by name; without one, the program itself."""

    optional_arguments = 1

    def run(self):
        from pyro_dlgm.cli.main import main

        context = click.Context(main, info_name="pyro-dlgm", **main.context_settings)
        command = main
        if self.arguments:
            command = main.commands[self.arguments[0]]
            context = click.Context(command, parent=context, info_name=command.name, **main.context_settings)
        return parsed(self, described(command, context)).children


def setup(app):
    app.add_directive("command", CommandLine)
    return {"parallel_read_safe": True}
