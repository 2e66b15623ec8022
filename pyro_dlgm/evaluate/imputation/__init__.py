r"""Missing values: drawn from the posterior predictive, filled in, and compared with the truth."""
