r"""Comparison of several guides on one generative model."""
