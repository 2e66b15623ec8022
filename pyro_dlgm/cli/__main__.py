r"""``python -m pyro_dlgm.cli``."""

from .main import main

main()
