"""`packhorse publish`: sign bundles into the repository."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from packhorse_host.cli.output import JsonOption, WorkspaceOption, print_json
from packhorse_host.cli.passphrase import PassphraseFileOption, passphrase_source


def publish(
    bundle: Annotated[list[Path], typer.Argument(help="Bundle folders.", show_default=False)],
    passphrase_file: PassphraseFileOption = None,
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check bundles and sign them as releases, all or none; devices see them once a rollout names them.

    \b
    Example:
      packhorse publish -w fleet bundles/detector-1.0-*
    """
    from packhorse_host.errors import NotFoundError
    from packhorse_host.workspace import Workspace

    for folder in bundle:
        if not folder.exists():
            raise NotFoundError(f"{folder}: there is no such bundle")
    repository = Workspace.find(workspace).repository()
    refs = repository.publish(bundle, passphrase_source(passphrase_file))
    if as_json:
        print_json(refs)
    for ref in refs:
        typer.echo(f"published {ref.target} {ref.sha256[:12]}", err=True)
