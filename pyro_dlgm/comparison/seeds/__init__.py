r"""Comparison of several guides over several seeds: in processes, with paired differences and a winner."""
