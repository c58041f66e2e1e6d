"""`packhorse profile`: the profiles that come along, and checking one's own."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from packhorse_host.cli.complete import profile_names
from packhorse_host.cli.output import JsonOption, print_json, print_table

if TYPE_CHECKING:
    from packhorse_agent.contract.profile import Profile

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    help="List, show and check device profiles: what a class of devices can run, and how it is measured.",
)


@app.command("list")
def list_profiles(as_json: JsonOption = False) -> None:
    """List the built-in profiles; a star marks the one that fits this machine.

    \b
    Example:
      packhorse profile list --json
    """
    from packhorse_agent.profiles import builtin_profiles, detect_profile

    profiles = list(builtin_profiles().values())
    if as_json:
        print_json(profiles)
        return
    here = detect_profile()
    rows = [
        (
            f"{profile.name} *" if profile.name == here else profile.name,
            ", ".join(profile.compatible.architectures),
            ", ".join(runtime.name for runtime in profile.runtimes),
            profile.recipe.name,
            ", ".join(source.kind.value for source in profile.power_sources) or "none",
            profile.title,
        )
        for profile in profiles
    ]
    print_table(("PROFILE", "FOR", "RUNTIMES", "RECIPE", "POWER", "DEVICES"), rows)


@app.command("show")
def show_profile(
    profile: Annotated[
        str,
        typer.Argument(
            help="Name of a built-in profile, or the path of a TOML file.", autocompletion=profile_names
        ),
    ],
    as_json: JsonOption = False,
) -> None:
    """Show one profile whole.

    \b
    Examples:
      packhorse profile show raspberry-pi-5
      packhorse profile show ./my-board.toml --json
    """
    from packhorse_agent.profiles import find_profile

    found = find_profile(profile)
    if as_json:
        print_json(found)
    else:
        print_table(("PROFILE", found.name), _facts(found))


@app.command("check")
def check_profile(
    file: Annotated[Path, typer.Argument(help="The TOML file of a profile.", show_default=False)],
    as_json: JsonOption = False,
) -> None:
    """Check a profile that you have written; all faults are listed with the nearest right key.

    \b
    Example:
      packhorse profile check ./my-board.toml
    """
    from packhorse_agent.machine import machine_facts
    from packhorse_agent.profiles import check_hardware, load_profile

    profile = load_profile(file)
    problem = check_hardware(profile, machine_facts())
    if as_json:
        print_json({"profile": profile.name, "file": str(file), "fits_this_machine": problem is None})
        return
    typer.echo(f"{file}: {profile.name} is a valid profile")
    typer.echo(f"this machine: {problem or 'may carry it'}")


def _facts(profile: Profile) -> list[tuple[str, str]]:
    compatible, budget, thermal = profile.compatible, profile.budget, profile.thermal
    facts = [
        ("devices", profile.title),
        ("architectures", ", ".join(compatible.architectures)),
        ("operating systems", ", ".join(compatible.operating_systems)),
        ("Python", f"{compatible.minimum_python} or newer"),
        ("recognised by", ", ".join(profile.detection.device_tree_models) or _detection(profile)),
    ]
    for runtime in profile.runtimes:
        providers = f" with {', '.join(runtime.providers)}" if runtime.providers else ""
        facts.append(("runtime", f"{runtime.name} {runtime.minimum_version} or newer{providers}"))
    facts += [("recipe", profile.recipe.name), ("why", profile.recipe.reason)]
    facts += [
        ("threads", str(profile.threads)),
        ("memory", f"{budget.memory_mib} MiB"),
        ("storage", f"{budget.storage_mib} MiB"),
    ]
    for source in profile.power_sources:
        labels = f": {', '.join(source.labels)}" if source.labels else ""
        facts.append(("power", f"{source.kind.value} ({source.scope}){labels}"))
    if not profile.power_sources:
        facts.append(("power", "none: energy is not reported"))
    return [*facts, ("warm, critical", f"{thermal.warm_c:g} °C, {thermal.critical_c:g} °C")]


def _detection(profile: Profile) -> str:
    return "Android" if profile.detection.android else "its architecture alone"
