r"""Every tool of Pyro and PyTorch that was tried on our pairs; ``python tests/test_tools.py`` writes docs/tools.md."""

import re
from pathlib import Path

import pyro.infer as infer
import pytest
from pyro import poutine
from pyro.infer import autoguide

pytest.register_assert_rewrite("tools")

from tools import (  # noqa: E402
    any_program,
    autoguides,
    handlers,
    inference,
    objectives,
    optimizers,
    parameters,
    torch_functions,
    torch_modules,
)
from tools.group import MISLEADS, WORKS, Tool  # noqa: E402

PAGE = Path(__file__).parents[1] / "docs" / "tools.md"
BEGIN, END = "<!-- tests/test_tools.py writes what follows -->", "<!-- tests/test_tools.py wrote what precedes -->"
MODULES = (
    handlers,
    objectives,
    inference,
    autoguides,
    parameters,
    optimizers,
    torch_modules,
    torch_functions,
    any_program,
)
GROUPS = [module.tool for module in MODULES]
TOOLS = [tool for group in GROUPS for tool in group.tools]


def table() -> str:
    r"""The tables of docs/tools.md, one for each group, as Markdown."""
    parts = []
    for group in GROUPS:
        rows = [f"| {_cell(tool.name)} | {_outcome(tool)} | {_cell(tool.remark)} |" for tool in group.tools]
        parts.append("\n".join([f"## {group.title}\n", "| tool | outcome | remark |", "|---|---|---|", *rows]))
    return "\n\n".join(parts)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _outcome(tool: Tool) -> str:
    if isinstance(tool.outcome, str):
        return tool.outcome if tool.outcome == WORKS else f"**{tool.outcome}**"
    says = f": {_cell(tool.says)}" if tool.says else ""
    return f"raises `{tool.outcome.__name__}`{says}"


def written(page: str) -> str:
    r"""The page with the tables of today between the two comments."""
    before, _, rest = page.partition(BEGIN)
    after = rest.partition(END)[2]
    return f"{before}{BEGIN}\n\n{table()}\n\n{END}{after}"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("tool", TOOLS, ids=lambda tool: f"{tool.group.split(':')[0]}: {tool.name}".replace("::", ":"))
def test_tool(tool):
    if tool.outcome in (WORKS, MISLEADS):
        tool.attempt()
    else:
        with pytest.raises(tool.outcome, match=re.escape(tool.says)):
            tool.attempt()


def test_no_tool_stands_twice():
    names = [(tool.group, tool.name) for tool in TOOLS]
    assert len(set(names)) == len(names)


# Bases, what other rows use, and what is for other models.
BASES = {"ELBO", "TracePosterior", "TracePredictive", "AutoGuide", "AutoContinuous", "AutoMessenger", "AutoCallable"}
ELSEWHERE = {"MCMC", "SMCFilter", "Trace", "NonlocalExit", "unwrap", "get_mask"}
ELSEWHERE |= {"enable_validation", "is_validation_enabled"}


@pytest.mark.parametrize("face", [poutine, infer, autoguide], ids=lambda face: face.__name__)
def test_every_tool_of_pyro_was_tried(face):
    names = [name for name in face.__all__ if not name.startswith("init_")]
    said = " ".join(tool.name for tool in TOOLS)
    assert {name for name in names if not re.search(rf"\b{name}\b", said)} <= BASES | ELSEWHERE


def test_the_page_has_this_table():
    page = PAGE.read_text(encoding="utf-8")
    assert page.count(BEGIN) == page.count(END) == 1
    assert written(page) == page, "docs/tools.md is not of today: python tests/test_tools.py"


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
