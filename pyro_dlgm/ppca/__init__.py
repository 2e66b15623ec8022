r"""Probabilistic PCA, the linear case: everything is exact."""
