"""`mpkit`, the command line; also as `python -m multiprocessing_kit.cli`."""

from __future__ import annotations

import click

from multiprocessing_kit.cli.checkpoint import checkpoint
from multiprocessing_kit.cli.http import http
from multiprocessing_kit.cli.manage import manage
from multiprocessing_kit.cli.service import service

__all__ = ["main"]


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Tools for multiprocessing_kit."""


main.add_command(checkpoint)
main.add_command(http)
main.add_command(manage)
main.add_command(service)
