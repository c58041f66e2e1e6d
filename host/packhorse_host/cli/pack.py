"""`packhorse pack`: quantize a model for device profiles, as bundles."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from packhorse_host.cli.output import JsonOption, print_json, print_table

if TYPE_CHECKING:
    from packhorse_host.bundle.pack import PackedBundle
    from packhorse_host.bundle.rules import Rule


def pack(
    model: Annotated[Path, typer.Argument(help="A float model.", metavar="MODEL.onnx")],
    name: Annotated[str, typer.Option(help="The model's name: a-z, 0-9, `.`, `_`, `-`.")],
    version: Annotated[str, typer.Option(help="The release: numbers with dots, such as 1.0.2.")],
    profile: Annotated[list[str], typer.Option(help="A device profile, or the path of one; repeatable.")],
    recipe: Annotated[
        str, typer.Option(help="auto (what the profile prefers), fp32, dynamic_wi8_afp32 or static_wi8_ai8.")
    ] = "auto",
    calibration: Annotated[
        Path | None, typer.Option(help="An .npz with one array per model input, or a folder of them.")
    ] = None,
    evaluation: Annotated[
        Path | None, typer.Option(help="An .npz with one array per model input, and `labels`.")
    ] = None,
    max_drop: Annotated[
        float | None, typer.Option(help="Refuse a bundle that loses more points of accuracy.", min=0.0)
    ] = None,
    labels: Annotated[Path | None, typer.Option(help="Names of the classes, one a line.")] = None,
    preprocessing: Annotated[
        Path | None, typer.Option(help="How inputs are made, as one JSON object.")
    ] = None,
    allow: Annotated[
        list[str] | None, typer.Option(help="Override a rule: not-quantized or max-drop; repeatable.")
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="Where the bundles go.")] = Path("bundles"),
    as_json: JsonOption = False,
) -> None:
    """Quantize a model for device profiles, check it against FP32, and write one bundle for each profile.

    Bundles are folders `NAME-VERSION-PROFILE-RECIPE`. Nothing is written unless all of them are good.

    \b
    Example:
      packhorse pack model.onnx --name detector --version 1.0 --profile raspberry-pi-5 \\
        --calibration calibration.npz --evaluation evaluation.npz --max-drop 1
    """
    from packhorse_agent.profiles import find_profile

    profiles = [find_profile(reference) for reference in profile]
    allowed = frozenset(_rule(text) for text in allow or ())
    with _progress(quiet=as_json) as announce:
        from packhorse_host.bundle.pack import pack as pack_bundles
        from packhorse_host.bundle.request import PackRequest

        request = PackRequest(
            model, name, version, profiles, recipe, calibration, evaluation, max_drop, labels, preprocessing,
            allowed, output,
        )  # fmt: skip
        bundles = pack_bundles(request, announce)
    _warn(bundles)
    if as_json:
        print_json([_described(bundle) for bundle in bundles])
    else:
        _print(bundles)


def _rule(text: str) -> Rule:
    from packhorse_agent.toml_files import nearest
    from packhorse_host.bundle.rules import Rule
    from packhorse_host.errors import ConfigError

    known = [rule.value for rule in Rule]
    if text not in known:
        hint = nearest(text, known) or f"; there are {', '.join(known)}"
        raise ConfigError(f'--allow: there is no rule "{text}"{hint}')
    return Rule(text)


@contextlib.contextmanager
def _progress(*, quiet: bool) -> Iterator[Callable[[str], None]]:
    """A moving line on a terminal, plain lines elsewhere, nothing where a program reads."""
    if quiet:
        yield lambda text: None
    elif not sys.stderr.isatty():
        yield lambda text: typer.echo(text, err=True)
    else:
        from rich.console import Console

        with Console(stderr=True).status("starting") as status:
            yield status.update


def _warn(bundles: list[PackedBundle]) -> None:
    concerned: dict[str, list[str]] = {}
    for bundle in bundles:
        for notice in bundle.notices:
            concerned.setdefault(notice, []).append(bundle.manifest.profile)
    for notice, profiles in concerned.items():
        text = f"warning: {', '.join(profiles)}: {notice}"
        typer.secho(text, err=True, fg=typer.colors.YELLOW, bold=True)


def _described(bundle: PackedBundle) -> dict[str, Any]:
    manifest = bundle.manifest
    return {
        "bundle": str(bundle.folder),
        "model": str(bundle.model),
        "profile": manifest.profile,
        "recipe": manifest.recipe.name,
        "digest": bundle.digest,
        "evidence": manifest.evidence,
        "measurement": bundle.measurement,
        "notices": list(bundle.notices),
    }


def _print(bundles: list[PackedBundle]) -> None:
    headers = ["BUNDLE", "RECIPE", "TOP-1 %", "DROP (95 %)", "SIZE", "INTEGER", "SPEED-UP HERE"]
    print_table(headers, [_row(bundle) for bundle in bundles])


def _row(bundle: PackedBundle) -> list[str]:
    from packhorse_host.bundle.words import drop_text, kernels_text, score_text, size_text, speed_text

    evidence = bundle.manifest.evidence
    return [
        str(bundle.folder),
        bundle.manifest.recipe.name,
        score_text(evidence),
        drop_text(evidence),
        size_text(evidence),
        kernels_text(evidence),
        speed_text(bundle.measurement),
    ]
