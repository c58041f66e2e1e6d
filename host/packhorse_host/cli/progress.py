"""How far long work is: on a terminal a moving line, plain lines elsewhere, nothing where a program reads."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator

import typer


@contextlib.contextmanager
def progress(*, quiet: bool) -> Iterator[Callable[[str], None]]:
    """A function that says what is done next, on standard error."""
    if quiet:
        yield lambda text: None
    elif not sys.stderr.isatty():
        yield lambda text: typer.echo(text, err=True)
    else:
        from rich.console import Console

        with Console(stderr=True).status("starting") as status:
            yield status.update
