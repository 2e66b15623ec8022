r"""Tasks in processes."""
