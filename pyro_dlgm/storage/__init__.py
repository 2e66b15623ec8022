r"""What does not fit into memory: tables of rows in files, with a way back, and orders of many points."""
