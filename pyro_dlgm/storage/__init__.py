r"""Storage for data larger than memory: tables of rows in files, which can be restored, and orders of many points."""
