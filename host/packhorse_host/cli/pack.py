"""`packhorse pack`: quantize a model for device profiles, as bundles."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from packhorse_host.cli.complete import profile_names
from packhorse_host.cli.output import JsonOption, print_json, print_table
from packhorse_host.cli.progress import progress

if TYPE_CHECKING:
    from packhorse_agent.contract.profile import RuntimeName
    from packhorse_host.bundle.pack import PackedBundle
    from packhorse_host.bundle.search_report import SearchReport
    from packhorse_host.quantize.search.search import SearchResult

_Choice = TypeVar("_Choice", bound=Enum)


def pack(
    model: Annotated[
        Path,
        typer.Argument(
            help="A float model: ONNX, .tflite, Keras, a SavedModel's folder, .pt2, .pth or FILE.py:NAME.",
            metavar="MODEL",
        ),
    ],
    name: Annotated[str, typer.Option(help="The model's name: a-z, 0-9, `.`, `_`, `-`.")],
    version: Annotated[str, typer.Option(help="The release: numbers with dots, such as 1.0.2.")],
    profile: Annotated[
        list[str],
        typer.Option(help="A device profile, or the path of one; repeatable.", autocompletion=profile_names),
    ],
    runtime: Annotated[
        str | None, typer.Option(help="One of the profile's runtimes; its first that suits by default.")
    ] = None,
    recipe: Annotated[
        str, typer.Option(help="auto (searched: see docs/guides/quantize.md), or a recipe by its name.")
    ] = "auto",
    calibration: Annotated[
        Path | None,
        typer.Option(
            help="An .npz with an array per input, a folder of them, of images or WAV files, or a .jsonl."
        ),
    ] = None,
    evaluation: Annotated[
        Path | None, typer.Option(help="The same with the truth: `labels`, or what the metric wants.")
    ] = None,
    max_drop: Annotated[
        float | None,
        typer.Option(
            help="Refuse a bundle that loses more points of the metric; auto: 1 by default.", min=0.0
        ),
    ] = None,
    metric: Annotated[
        str,
        typer.Option(help="What is evaluated by: top1_percent, ap75_percent, cer_percent, auc_percent, ..."),
    ] = "top1_percent",
    metric_output: Annotated[
        str | None, typer.Option(help="The output that the metric scores; the first by default.")
    ] = None,
    threshold: Annotated[
        float | None, typer.Option(help="From where on a frame is a yes, for frame metrics; 0.5 by default.")
    ] = None,
    charset: Annotated[
        Path | None, typer.Option(help="Characters of a text model, one a line, without the blank.")
    ] = None,
    calibration_method: Annotated[
        str | None,
        typer.Option(
            help="How static recipes choose ranges: minmax (the default), percentile, entropy, mse."
        ),
    ] = None,
    percentile: Annotated[
        float | None,
        typer.Option(help="Share of the values inside a range, for the method percentile; 99.99 by default."),
    ] = None,
    equalize: Annotated[
        bool, typer.Option("--equalize", help="Even out the scales of channels across layers first.")
    ] = False,
    correct_bias: Annotated[
        bool, typer.Option("--correct-bias", help="Shift biases by the mean error of quantization.")
    ] = False,
    data_free: Annotated[
        bool, typer.Option("--data-free", help="Calibrate on made-up inputs, where there is no data at all.")
    ] = False,
    prefer: Annotated[
        str, typer.Option(help="What auto looks for among those that hold the budget: speed or size.")
    ] = "speed",
    thorough: Annotated[
        bool, typer.Option("--thorough", help="Let auto try all candidates, for the whole front.")
    ] = False,
    search_seconds: Annotated[
        float, typer.Option(help="After these auto begins no further candidate.", min=0.0)
    ] = 60.0,
    front: Annotated[
        Path | None, typer.Option(help="Draw what auto tried, accuracy over size and speed, as a PNG.")
    ] = None,
    labels: Annotated[Path | None, typer.Option(help="Names of the classes, one a line.")] = None,
    preprocessing: Annotated[
        Path | None, typer.Option(help="How inputs are made, as one JSON object.")
    ] = None,
    allow: Annotated[
        list[str] | None,
        typer.Option(
            help="Override a rule: not-quantized, growth, constant-output, max-drop or data-free; repeatable."
        ),
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="Where the bundles go.")] = Path("bundles"),
    network: Annotated[
        str | None,
        typer.Option("--class", help="FILE.py:NAME of the class that the weights in a .pth belong to."),
    ] = None,
    tensor: Annotated[
        list[str] | None,
        typer.Option(
            "--input", help="An input of a PyTorch module, NAME:DATATYPE:LENGTHS, `*` for a free batch."
        ),
    ] = None,
    load_pickle: Annotated[
        bool,
        typer.Option("--load-pickle", help="Load a whole Python object: runs whatever code its file holds."),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Quantize a model for device profiles, check it against FP32, and write one bundle for each profile.

    Bundles are folders `NAME-VERSION-PROFILE-RECIPE`. Nothing is written unless all of them are good.

    \b
    Example:
      packhorse pack model.onnx --name detector --version 1.0 --profile raspberry-pi-5 \\
        --calibration calibration.npz --evaluation evaluation.npz --max-drop 1
      packhorse pack model.onnx --name detector --version 1.0 --profile raspberry-pi-5 \\
        --calibration calibration.npz --recipe static_wi8_ai8 --calibration-method mse --equalize
      packhorse pack model.keras --name detector --version 1.0 --profile android-arm64 --runtime litert \\
        --calibration calibration.npz
    """
    from packhorse_agent.profiles import find_profile

    profiles = [find_profile(reference) for reference in profile]
    from packhorse_agent.contract.recipe import CalibrationMethod

    method = _choice("--calibration-method", calibration_method, list(CalibrationMethod))
    _check_front(front, recipe)
    with progress(quiet=as_json) as announce:
        from packhorse_host.bundle.pack import pack as pack_bundles
        from packhorse_host.bundle.request import PackRequest
        from packhorse_host.bundle.rules import OVERRIDABLE
        from packhorse_host.bundle.settings import Settings
        from packhorse_host.convert.sources import parse_input
        from packhorse_host.evaluate.metrics.registry import MetricOptions, read_alphabet
        from packhorse_host.quantize.search.policy import Preference

        preference = _choice("--prefer", prefer, list(Preference)) or Preference.SPEED
        allowed = frozenset(rule for text in allow or () if (rule := _choice("--allow", text, OVERRIDABLE)))
        options = MetricOptions(metric_output, threshold, read_alphabet(charset) if charset else None)
        settings = Settings(method, percentile, equalize, correct_bias, data_free)
        request = PackRequest(
            model, name, version, profiles, recipe, calibration, evaluation, max_drop, labels, preprocessing,
            allowed, output, settings, preference, thorough, search_seconds, metric, options,
            _runtime(runtime), network, tuple(parse_input(text) for text in tensor or ()), load_pickle,
        )  # fmt: skip
        bundles = pack_bundles(request, announce)
    _warn(bundles)
    if front is not None:
        _draw(bundles, front)
    if as_json:
        print_json([_described(bundle) for bundle in bundles])
    else:
        _print(bundles)


def _runtime(text: str | None) -> RuntimeName | None:
    from packhorse_agent.toml_files import nearest
    from packhorse_host.convert.table import RUNTIMES
    from packhorse_host.errors import ConfigError

    for name in RUNTIMES:
        if text == name:
            return name
    if text is None:
        return None
    raise ConfigError(f'--runtime: there is no "{text}"{nearest(text, list(RUNTIMES))}')


def _choice(option: str, text: str | None, known: Sequence[_Choice]) -> _Choice | None:
    from packhorse_agent.toml_files import nearest
    from packhorse_host.errors import ConfigError

    values = [choice.value for choice in known]
    if text is not None and text not in values:
        hint = nearest(text, values) or f"; there are {', '.join(values)}"
        raise ConfigError(f'{option}: there is no "{text}"{hint}')
    return next((choice for choice in known if choice.value == text), None)


def _warn(bundles: list[PackedBundle]) -> None:
    concerned: dict[str, list[str]] = {}
    for bundle in bundles:
        for notice in bundle.notices:
            concerned.setdefault(notice, []).append(bundle.manifest.profile)
    for notice, profiles in concerned.items():
        text = f"warning: {', '.join(profiles)}: {notice}"
        typer.secho(text, err=True, fg=typer.colors.YELLOW, bold=True)


def _check_front(front: Path | None, recipe: str) -> None:
    from packhorse_host.bundle.front_image import check_front_file
    from packhorse_host.errors import ConfigError

    if front is None:
        return
    if recipe != "auto":
        raise ConfigError("--front draws what --recipe auto tried; with a named recipe there is one point")
    check_front_file(front)


def _draw(bundles: list[PackedBundle], front: Path) -> None:
    from packhorse_host.bundle.front_image import draw_fronts

    searches = [(", ".join(profiles), found) for profiles, _, found in _searches(bundles)]
    if searches:
        front.write_bytes(draw_fronts(searches))


def _searches(bundles: list[PackedBundle]) -> list[tuple[list[str], SearchResult, SearchReport]]:
    """Each search once, with the profiles that it was for."""
    from packhorse_host.bundle.search_report import report

    found: list[tuple[list[str], SearchResult, SearchReport]] = []
    for bundle in bundles:
        known = next((profiles for profiles, result, _ in found if result is bundle.search), None)
        if known is not None:
            known.append(bundle.manifest.profile)
        elif bundle.search is not None:
            found.append(([bundle.manifest.profile], bundle.search, report(bundle.search)))
    return found


def _described(bundle: PackedBundle) -> dict[str, Any]:
    from packhorse_host.bundle.search_report import report

    manifest = bundle.manifest
    return {
        "bundle": str(bundle.folder),
        "model": str(bundle.model),
        "profile": manifest.profile,
        "recipe": manifest.recipe.name,
        "digest": bundle.digest,
        "evidence": manifest.evidence,
        "measurement": bundle.measurement,
        "search": report(bundle.search) if bundle.search else None,
        "notices": list(bundle.notices),
    }


def _print(bundles: list[PackedBundle]) -> None:
    from packhorse_host.bundle.search_report import headers, rows
    from packhorse_host.bundle.words import metric_text

    quality = bundles[0].manifest.evidence.quality
    score = metric_text(quality).upper() if quality else "SCORE"
    names = ["BUNDLE", "RECIPE", score, "DROP (95 %)", "SIZE", "INTEGER", "SPEED-UP HERE"]
    print_table(names, [_row(bundle) for bundle in bundles])
    for profiles, result, found in _searches(bundles):
        typer.echo(f"\nSearched for {', '.join(profiles)}. Taken: {found.why}.")
        print_table(headers(result), rows(found.tried))


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
