r"""Optimization of F(q, w): SVI with torch optimizers, Adam for rows, schedules, a guard against NaN."""
