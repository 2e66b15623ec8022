r"""The local latents of any Pyro program: found in a trace, laid out as one vector u for each point."""
