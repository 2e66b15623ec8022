r"""Guides for any Pyro program: rows or an encoder for the latents of points, a dense q for the others."""
