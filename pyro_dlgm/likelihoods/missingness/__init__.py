r"""Values that hide themselves: p(x | t) p(m | x), what is missing integrated out."""
