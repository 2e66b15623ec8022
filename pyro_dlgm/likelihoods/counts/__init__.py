r"""Counts 0, 1, 2, ...: their likelihoods, and distributions that stay accurate at large counts."""
