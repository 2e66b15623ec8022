r"""A group of tools: what each is called, what came of it, and the function that tries it."""

from collections.abc import Callable
from dataclasses import dataclass

WORKS, MISLEADS = "works", "misleads"


@dataclass(frozen=True)
class Tool:
    r"""A tool that was tried.

    Attributes:
        group, name: what it is called.
        remark: what to mind, one short sentence.
        attempt: tries it on a small pair, and checks a number, a shape or what moved.
        outcome: "works"; "misleads", where it runs without an error and what comes out is not what one would take it
            for, which the attempt shows; or the exception that it raises.
        says: words in the message of the exception.
    """

    group: str
    name: str
    remark: str
    attempt: Callable[[], None]
    outcome: str | type[BaseException] = WORKS
    says: str = ""


class Group:
    r"""Creates a list of tools under a title; the group adds the function that it decorates."""

    def __init__(self, title: str):
        self.title, self.tools = title, []

    def __call__(self, name: str, remark: str, outcome: str | type[BaseException] = WORKS, says: str = ""):
        def add(attempt: Callable[[], None]) -> Callable[[], None]:
            self.tools.append(Tool(self.title, name, remark, attempt, outcome, says))
            return attempt

        return add
