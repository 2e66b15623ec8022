r"""``python -m pyro_dlgm.cli``."""

from .main import main

if __name__ == "__main__":
    main()
