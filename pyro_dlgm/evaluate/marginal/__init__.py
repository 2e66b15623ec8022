r"""Estimates of log p(x | w): annealed importance sampling, bidirectional Monte Carlo, quadrature."""
