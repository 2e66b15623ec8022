r"""Optimization of F(q, w): SVI with torch optimizers, Adam for rows, a guard against NaN."""
