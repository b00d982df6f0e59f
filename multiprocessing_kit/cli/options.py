"""Options that several commands have."""

from __future__ import annotations

import click

__all__ = ["as_json", "config_file", "detach"]

config_file = click.option(
    "-c",
    "--config",
    "file",
    default="service.toml",
    show_default=True,
    metavar="FILE",
    help="The configuration.",
)
detach = click.option("-d", "--detach", is_flag=True, help="In the background; returns when it is ready.")
as_json = click.option("--json", "as_json", is_flag=True, help="As JSON.")
