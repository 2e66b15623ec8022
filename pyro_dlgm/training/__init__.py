r"""Training: `fit`, its loop, validation, and listeners."""
