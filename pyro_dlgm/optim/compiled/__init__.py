r"""Compiled steps: a whole step of `SVI` as one program."""
