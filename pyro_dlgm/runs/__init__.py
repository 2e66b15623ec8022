r"""Runs on disk: configuration, metrics, checkpoints."""
