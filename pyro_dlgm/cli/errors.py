r"""Errors and warnings on the command line: one line, in the words of its options."""

import re
import warnings

import click

from ..runs.files import RunError


class OneLine(click.Group):
    r"""Creates a group of commands whose errors, if a user can mend them, are one line with exit status 2."""

    def invoke(self, ctx):
        try:
            with warnings.catch_warnings():
                warnings.showwarning = self._note
                return super().invoke(ctx)
        except click.UsageError as error:
            said = error.format_message()
        except (RunError, ValueError, FileNotFoundError, FloatingPointError) as error:
            said = in_options(str(error), self.commands.values())
        except KeyboardInterrupt as stop:
            # Without a full stop, so that the command at the end of the line can be copied.
            click.echo(f"Interrupted: {stop}" if str(stop) else "Interrupted.", err=True)
            ctx.exit(130)
        click.echo(f"Error: {' '.join(said.split())}", err=True)
        ctx.exit(2)

    def resolve_command(self, ctx, args):
        r"""Returns the command that the first argument names; the error for an unknown one lists the known ones."""
        if args and not ctx.resilient_parsing and args[0] not in self.commands and not args[0].startswith("-"):
            *names, last = self.list_commands(ctx)
            raise click.UsageError(
                f"No such command {args[0]!r}; expected {', '.join(names)} or {last} "
                "(report.html is written by compare, fit and evaluate)"
            )
        return super().resolve_command(ctx, args)

    def _note(self, message, category, filename, lineno, file=None, line=None) -> None:
        said = in_options(" ".join(str(message).split()), self.commands.values())
        click.echo(f"Note: {said}", err=True)


def in_options(said: str, commands) -> str:
    r"""Returns a message in the words of the command line: options in place of key=, num_val or "lr is" of Python.

    Arguments:
        said: the message.
        commands: the commands that have these options.
    """
    options = {p.name: p.opts[0] for c in commands for p in c.params if isinstance(p, click.Option)}
    options.pop("name", None)  # an ordinary word
    options["data"] = "--data"  # whose parameter has that name
    names = "|".join(sorted(map(re.escape, options), key=len, reverse=True))
    unlike = "|".join(name for name in options if "_" in name or name == "lr")  # not English words

    def option(found: re.Match) -> str:
        return options[found[1]]

    said = re.sub(rf"\b({names})=True\b", option, said)
    said = re.sub(rf"(?<!\w)({names})='(\w+)'", lambda m: f"{option(m)} {m[2]}", said)
    said = re.sub(rf"^({names}) is None\b", lambda m: f"{option(m)} is not given", said)
    said = re.sub(rf"(?:^|(?<=; )|(?<= and ))({names}) is True\b", lambda m: f"{option(m)} is given", said)
    said = re.sub(rf"(?:^|(?<=; )|(?<= and ))({names}) is False\b", lambda m: f"{option(m)} is not", said)
    said = re.sub(rf"(?:^|(?<=; ))({names}) (is|'\w+')", lambda m: f"{option(m)} {m[2]}", said)
    return re.sub(rf"(?<![\w.-])({unlike})\b(?!\()", option, said)
