r"""``python -m pyro_dlgm``, as for several processes: ``torchrun -m pyro_dlgm fit``."""

from .cli.main import main

if __name__ == "__main__":
    main()
