r"""Plots: learning curves, images, inference gaps, diagnostics."""
