"""`python -m multiprocessing_kit.cli`."""

from __future__ import annotations

from multiprocessing_kit.cli import main

if __name__ == "__main__":
    main(prog_name="mpkit")
