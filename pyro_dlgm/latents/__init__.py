r"""The local latents of any Pyro program: found in a trace, and laid out as one vector u per point."""
