r"""The E-step alone: fits q to points, with w frozen."""
