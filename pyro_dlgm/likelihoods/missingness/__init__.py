r"""Values missing not at random: p(x | t) p(m | x), with the missing values integrated out."""
