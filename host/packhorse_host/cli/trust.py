"""`packhorse trust`: until when signatures hold, renewing them, and replacing keys."""

from __future__ import annotations

import getpass
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from packhorse_host.cli.complete import models, trust_roles, versions
from packhorse_host.cli.output import JsonOption, WorkspaceOption, print_json, print_table
from packhorse_host.cli.passphrase import PassphraseFileOption, passphrase_source
from packhorse_host.errors import ConfigError

if TYPE_CHECKING:
    from packhorse_host.repository import Repository, RoleStanding
    from packhorse_host.workspace import Workspace

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    help="""Show until when the fleet's signatures hold, renew them, and replace keys.

The roles are those of TUF: root and targets, one for each model, and rollouts, snapshot and timestamp. The
last three are online: `packhorse serve` renews them while it runs. The others are offline: a person who has
their keys has to renew them.
""",
)

_ONLINE = ("rollouts", "snapshot", "timestamp")

RolesArgument = Annotated[
    list[str] | None,
    typer.Argument(
        help="Roles, as `packhorse trust show` names them.", show_default=False, autocompletion=trust_roles
    ),
]
KeysOption = Annotated[
    list[Path] | None,
    typer.Option(
        "--keys", help="A folder with keys that lie elsewhere; may be repeated.", show_default=False
    ),
]


@app.command()
def show(keys: KeysOption = None, workspace: WorkspaceOption = None, as_json: JsonOption = False) -> None:
    """Show each role: until when it holds, who has to sign it, and which keys are at hand.

    \b
    Example:
      packhorse trust show -w fleet
    """
    from packhorse_agent.trust.clock import utc_now
    from packhorse_host.repository.standing import warnings

    standings = _repository(workspace, keys)[1].standings()
    now = utc_now()
    said = warnings(standings, now)
    if as_json:
        print_json([{**one.model_dump(mode="json"), "warning": said.get(one.role, "")} for one in standings])
        return
    print_table(
        ("role", "version", "expires", "in", "must sign", "keys at hand", "minimum version"),
        [
            (
                one.role,
                str(one.version),
                f"{one.expires:%Y-%m-%d}",
                f"{(one.expires - now).days} days",
                f"{one.threshold} of {one.keys}",
                _at_hand(one),
                one.minimum_version or "-",
            )
            for one in standings
        ],
    )
    for text in said.values():
        typer.echo(f"warning: {text}", err=True)


@app.command()
def renew(
    role: RolesArgument = None,
    within: Annotated[str, typer.Option(help="Without roles: all offline ones that expire by then.")] = "90d",
    keys: KeysOption = None,
    passphrase_file: PassphraseFileOption = None,
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Sign roles anew as they are: root holds for 730 days then, targets and models for 365.

    The root takes as many root keys as its threshold says: name the folders where they lie with --keys.

    \b
    Examples:
      packhorse trust renew
      packhorse trust renew root --keys /media/alice --keys /media/bob
    """
    from datetime import timedelta

    from packhorse_agent.trust.clock import utc_now
    from packhorse_host.fleet.phases import parse_duration_s
    from packhorse_host.repository.standing import due

    found, repository = _repository(workspace, keys)
    horizon = timedelta(seconds=parse_duration_s(within))
    roles = role or list(due(repository.standings(), utc_now(), horizon))
    if roles:
        repository.renew(roles, passphrase_source(passphrase_file))
        _audit(found, f"trust: renew {', '.join(roles)}")
    else:
        typer.echo(f"nothing expires within {within}", err=True)
    _say(repository, roles, "renewed", as_json=as_json)


@app.command()
def rotate(
    role: Annotated[
        list[str],
        typer.Argument(
            help="Roles, or `online` for all online ones.", show_default=False, autocompletion=trust_roles
        ),
    ],
    root_keys: Annotated[int | None, typer.Option(help="With root: how many there are from now on.")] = None,
    root_threshold: Annotated[int | None, typer.Option(help="With root: how many must sign.")] = None,
    keys: KeysOption = None,
    passphrase_file: PassphraseFileOption = None,
    new_passphrase_file: Annotated[
        Path | None,
        typer.Option(help="For the new offline keys; by default the old passphrase.", show_default=False),
    ] = None,
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Replace the keys of roles; devices refuse the old ones once they have heard of it.

    Root, targets, snapshot and timestamp take the root keys, models and rollouts the targets key. The old key
    of a role is needed for none but the root: a lost key is replaced in the same way. New keys are made in
    the workspace, and a key that was there under the same name is overwritten.

    \b
    Examples:
      packhorse trust rotate online
      packhorse trust rotate root --keys /media/alice --keys /media/bob
      packhorse trust rotate model-detector --new-passphrase-file new.txt
    """
    from packhorse_host.repository import Rotation

    roles = _roles(role)
    if "root" not in roles and not (root_keys is None and root_threshold is None):
        raise ConfigError("--root-keys and --root-threshold go with the role root")
    found, repository = _repository(workspace, keys)
    ask = passphrase_source(passphrase_file)
    have_keys, have_threshold = repository.root_plan()
    rotation = Rotation(
        roles,
        have_keys if root_keys is None else root_keys,
        have_threshold if root_threshold is None else root_threshold,
        _new_passphrase(repository, roles, ask, new_passphrase_file),
    )
    repository.rotate(rotation, ask)
    _audit(found, f"trust: rotate {', '.join(roles)}")
    if "root" in roles:
        text = "the root keys are new: move them to separate safe places and destroy the old ones"
        typer.echo(f"{found.keys_folder}: {text}", err=True)
    _say(repository, list(roles), "rotated", as_json=as_json)


@app.command("minimum-version")
def minimum_version(
    model: Annotated[
        str, typer.Argument(help="A published model.", show_default=False, autocompletion=models)
    ],
    version: Annotated[
        str,
        typer.Argument(help="The oldest that may be installed.", show_default=False, autocompletion=versions),
    ],
    passphrase_file: PassphraseFileOption = None,
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Sign the oldest version of a model that devices may still install.

    Whoever steals the online keys cannot roll a fleet back behind it. What is installed goes on serving.

    \b
    Example:
      packhorse trust minimum-version detector 2.0
    """
    from packhorse_agent.trust.release import model_role

    found, repository = _repository(workspace, None)
    repository.set_minimum_version(model, version, passphrase_source(passphrase_file))
    _audit(found, f"trust: minimum version of {model} is {version}")
    _say(repository, [model_role(model)], f"signed with minimum version {version}", as_json=as_json)


def _repository(workspace: Path | None, keys: list[Path] | None) -> tuple[Workspace, Repository]:
    from packhorse_host.workspace import Workspace

    for folder in keys or ():
        if not folder.is_dir():
            raise ConfigError(f"--keys {folder}: there is no such folder")
    found = Workspace.find(workspace)
    return found, found.repository(keys_elsewhere=keys or ())


def _roles(named: list[str]) -> tuple[str, ...]:
    every = [one for role in named for one in (_ONLINE if role == "online" else (role,))]
    return tuple(dict.fromkeys(every))


def _new_passphrase(
    repository: Repository, roles: tuple[str, ...], ask: Callable[[str], str], file: Path | None
) -> str | None:
    """What new offline keys are encrypted with: as those that there are, or as a file says."""
    if all(role in _ONLINE for role in roles):
        return None
    if file is not None:
        return passphrase_source(file)("")
    encrypted = any(one.encrypted for one in repository.standings())
    return ask("") if encrypted else None


def _audit(workspace: Workspace, text: str) -> None:
    from packhorse_host.fleet.database import append_audit
    from packhorse_host.fleet.opened import open_fleet

    with open_fleet(workspace.folder) as fleet, fleet.database.transaction() as connection:
        append_audit(connection, time.time(), getpass.getuser(), text)


def _say(repository: Repository, roles: list[str], done: str, *, as_json: bool) -> None:
    changed = [one for one in repository.standings() if one.role in roles]
    for one in changed:
        typer.echo(f"{one.role} is {done}; it holds until {one.expires:%Y-%m-%d}", err=True)
    if as_json:
        print_json(changed)


def _at_hand(one: RoleStanding) -> str:
    if not one.key_files:
        return "none"
    names = ", ".join(Path(file).stem for file in one.key_files)
    return f"{names} (encrypted)" if one.encrypted else names
