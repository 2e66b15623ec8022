r"""Missing values: drawn from the posterior predictive, filled in by one number, and held against the truth."""
