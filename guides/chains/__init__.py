r"""Guides whose q is the states of Markov chains."""
