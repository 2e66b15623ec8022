r"""Annealing from q to the posterior and back: paths, walks in blocks, AIS and BDMC."""
