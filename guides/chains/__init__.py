r"""Guides whose q consists of the states of Markov chains."""
