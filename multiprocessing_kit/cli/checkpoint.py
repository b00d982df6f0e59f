"""`mpkit checkpoint`: look into a file of answers, and drop some."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from datetime import datetime

import click

from multiprocessing_kit.checkpoint import store
from multiprocessing_kit.errors import CheckpointError

__all__ = ["checkpoint"]


@click.group()
def checkpoint() -> None:
    """Answers that Process(checkpoint=FILE) keeps."""


@checkpoint.command()
@click.argument("file", type=click.Path())
def show(file: str) -> None:
    """Print what is in FILE, also while it is in use."""
    with _told():
        found = store.content(file)
    click.echo(f"worker     {found.worker or '(none: it was cleared)'}")
    click.echo(f"answered   {found.ok + found.failed:,} inputs: {found.ok:,} ok, {found.failed:,} failed")
    if found.last >= 0:
        click.echo(f"positions  up to {found.last:,}")
    click.echo(f"runs       {found.runs:,}")
    click.echo(f"size       {found.size:,} bytes")
    click.echo(f"begun      {_time(found.started)}")
    click.echo(f"last       {_time(found.written)}")


@checkpoint.command()
@click.argument("file", type=click.Path())
@click.option("--failed", is_flag=True, help="Only answers of failed jobs.")
def clear(file: str, failed: bool) -> None:
    """Delete the answers in FILE: their jobs run again next time."""
    with _told():
        count = store.clear(file, only_failed=failed)
    click.echo(f"deleted {count:,} {'failed answers' if failed else 'answers'}")


@contextlib.contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except CheckpointError as error:
        raise click.ClickException(str(error)) from error


def _time(stamp: float | None) -> str:
    return "never" if stamp is None else datetime.fromtimestamp(stamp).strftime("%Y-%m-%d %H:%M:%S")
