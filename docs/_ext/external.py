r"""Links to the pages of PyTorch, Pyro, NumPy and scikit-learn by their names: the build fetches nothing."""

import re

from docutils import nodes

TORCH, PYRO = "https://docs.pytorch.org/docs/stable/", "https://docs.pyro.ai/en/stable/"
NUMPY, SKLEARN = "https://numpy.org/doc/stable/reference/", "https://scikit-learn.org/stable/modules/generated/"
SHORT = {"Tensor": "torch.Tensor", "Module": "torch.nn.Module", "Trace_ELBO": "pyro.infer.trace_elbo.Trace_ELBO"}
SHORT |= {name: f"pyro.nn.module.{name}" for name in ("PyroModule", "PyroSample", "PyroParam")}
SHORT |= {"Tensor.to": "torch.Tensor.to", "AutoNormal": "pyro.infer.autoguide.AutoNormal"}
SHORT |= {"pyro.infer.SVI": "pyro.infer.svi.SVI", "RenyiELBO": "pyro.infer.renyi_elbo.RenyiELBO"}
# A pattern of names, and where they are documented: \1 is what the pattern's group found, \g<0> the whole name.
PAGES = (
    (r"torch\.(?:Tensor)", TORCH + r"tensors.html#\g<0>"),
    (r"torch\.Tensor\.\w+", TORCH + r"generated/\g<0>.html"),
    (r"torch\.autocast", TORCH + r"amp.html#\g<0>"),
    (r"torch\.(?:device|dtype)", TORCH + r"tensor_attributes.html#\g<0>"),
    (r"torch\.Size", TORCH + r"size.html#\g<0>"),
    (r"torch\.(?:compile|Generator|func\.\w+)", TORCH + r"generated/\g<0>.html"),
    (r"torch\.nn\.(?:modules\.\w+\.)?(\w+)", TORCH + r"generated/torch.nn.\1.html"),
    (r"torch\.optim\.optimizer\.Optimizer", TORCH + r"optim.html#torch.optim.Optimizer"),
    (r"torch\.optim\.(\w+)", TORCH + r"generated/torch.optim.\1.html"),
    (r"torch\.distributions\.\S+", TORCH + r"distributions.html#\g<0>"),
    (r"torch\.utils\.data\.\S+", TORCH + r"data.html#\g<0>"),
    (r"pyro\.distributions\.torch\.(\w+)", PYRO + r"distributions.html#pyro.distributions.\1"),
    (r"pyro\.distributions\.\S+", PYRO + r"distributions.html#\g<0>"),
    (r"pyro\.nn\.\S+", PYRO + r"nn.html#\g<0>"),
    (r"pyro\.optim\S*", PYRO + r"optimization.html#\g<0>"),
    (r"pyro\.poutine\.\S+", PYRO + r"poutine.html#\g<0>"),
    (r"pyro\.infer\.autoguide\S*", PYRO + r"infer.autoguide.html#\g<0>"),
    (r"pyro\.infer\.\S+", PYRO + r"inference_algos.html#\g<0>"),
    (r"numpy\.\w+", NUMPY + r"generated/\g<0>.html"),
    (r"sklearn\.\w+\.\w+", SKLEARN + r"\g<0>.html"),
)


def address(name: str) -> str | None:
    r"""Where a name is documented, if it is one of these packages."""
    name = SHORT.get(name, name)
    return next((found.expand(page) for pattern, page in PAGES if (found := re.fullmatch(pattern, name))), None)


def resolve(app, env, node, contnode):
    uri = address(node["reftarget"]) if node.get("refdomain") == "py" else None
    return uri and nodes.reference("", "", contnode, internal=False, refuri=uri, reftitle=node["reftarget"])


def setup(app):
    app.connect("missing-reference", resolve, priority=600)  # after those of this package
    return {"parallel_read_safe": True}
