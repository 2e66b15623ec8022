r"""Recipes: models, guides and data sets by name."""
