r"""What was tried on our pairs, one file a group of tools; `test_tools` runs it and writes docs/tools.md."""
