r"""Optimization of F(q, w): SVI with torch optimizers, Adam for rows, compiled steps, and a guard against NaN."""
