r"""A module that is held without being registered, so that another one owns its parameters."""

from collections.abc import Sequence


class Shared(Sequence):
    r"""Holds a module (or `None`) as its only item, without registering it in the module tree.

    If both are deep-copied together, in any order and any container, the copy holds the copied module; if only the
    holder is copied, the copy shares the module. Which case it is can be told only when the copying is over, so it is
    decided at the first use.
    """

    def __init__(self, module: tuple):
        (self._module,), self._copies = module, None

    def __len__(self) -> int:
        return 1

    def __getitem__(self, place):
        if self._copies is not None:
            self._module, self._copies = self._copies.get(id(self._module), self._module), None
        return (self._module,)[place]

    def __deepcopy__(self, memo):
        copied = Shared((self[0],))
        copied._copies = memo
        return copied

    def __reduce__(self):
        return Shared, ((self[0],),)
