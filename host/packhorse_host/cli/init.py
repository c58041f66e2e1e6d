"""`packhorse init`: a workspace with keys, repository and settings."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from packhorse_host.cli.output import JsonOption, print_json
from packhorse_host.cli.passphrase import PassphraseFileOption, new_passphrase


def init(
    folder: Annotated[Path, typer.Argument(help="A new or empty folder.", show_default=False)],
    fleet: Annotated[str | None, typer.Option(help="The fleet's name; by default the folder's.")] = None,
    port: Annotated[int, typer.Option(help="Where the broker listens.")] = 1883,
    root_keys: Annotated[int, typer.Option(help="How many root keys there are.")] = 3,
    root_threshold: Annotated[int, typer.Option(help="How many of them must sign.")] = 2,
    unencrypted_keys: Annotated[
        bool, typer.Option("--unencrypted-keys", help="Keep offline keys without a passphrase.")
    ] = False,
    passphrase_file: PassphraseFileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a workspace: signing keys, an empty repository, and `packhorse.toml`.

    \b
    Example:
      packhorse init fleet --fleet farm
    """
    from packhorse_host.repository import KeyPlan
    from packhorse_host.workspace import Workspace, check_new

    name = fleet if fleet is not None else folder.absolute().name
    check_new(folder, name, port)
    passphrase = None if unencrypted_keys else new_passphrase(passphrase_file)
    plan = KeyPlan(root_keys, root_threshold, passphrase)
    workspace = Workspace.create(folder, name, plan, port)
    if as_json:
        print_json({"workspace": str(workspace.folder), "fleet": workspace.fleet})
    keys = f"root-1.pem to root-{root_keys}.pem" if root_keys > 1 else "root-1.pem"
    typer.echo(f"{folder}: workspace of the fleet {workspace.fleet}", err=True)
    typer.echo(f"move {keys} out of {workspace.keys_folder} to separate safe places", err=True)
