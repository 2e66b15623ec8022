r"""Storage of numbers: tables of rows in files, which can be restored, orders of many points, and the dtype of sums."""
