r"""Training: `fit`, its loop, validation, and what listens while it goes on."""
