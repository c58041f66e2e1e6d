"""`packhorse evaluate`: score a model, or two of them on the same samples."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from packhorse_host.cli.output import JsonOption, print_json, print_table
from packhorse_host.cli.progress import progress

if TYPE_CHECKING:
    from packhorse_host.evaluate.compare import Score
    from packhorse_host.evaluate.evaluation import Evaluation
    from packhorse_host.evaluate.metrics.base import Metric


def evaluate(
    model: Annotated[Path, typer.Argument(help="A model file or a bundle's folder.", metavar="MODEL")],
    evaluation: Annotated[
        Path, typer.Option(help="An .npz with inputs and truth, a folder of files, or a .jsonl.")
    ],
    other: Annotated[
        Path | None,
        typer.Argument(help="A quantized model or bundle to hold against it.", metavar="[QUANTIZED]"),
    ] = None,
    metric: Annotated[
        str, typer.Option(help="A metric's name, or package.module:attribute for one of your own.")
    ] = "top1_percent",
    preprocessing: Annotated[
        Path | None, typer.Option(help="How images, sound or tokens become inputs, as one JSON object.")
    ] = None,
    output: Annotated[
        str | None, typer.Option(help="The output that is scored; by default the first.")
    ] = None,
    threshold: Annotated[
        float | None, typer.Option(help="frame_accuracy_percent: a score above it is a yes (0.5).")
    ] = None,
    charset: Annotated[
        Path | None, typer.Option(help="Metrics of text: the model's characters, one a line.")
    ] = None,
    blank: Annotated[int, typer.Option(help="Metrics of text: the class of the blank; -1 is the last.")] = 0,
    decoder: Annotated[
        str | None, typer.Option(help="Detection: package.module:function from raw outputs to boxes.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Score a model on an evaluation set; with a second one, what it loses against the first.

    Both run on the same samples, so that the drop has a paired 95 % interval. Metrics: top1_percent,
    top5_percent, ap50_percent, ap75_percent, exact_match_percent, cer_percent, cosine_percent,
    linear_probe_percent, frame_accuracy_percent, auc_percent, output_sqnr_db, output_cosine_percent.

    \b
    Example:
      packhorse evaluate model.onnx bundles/detector-1.0-raspberry-pi-5-static_wi8_ai8 \\
        --evaluation evaluation.npz --metric top1_percent
    """
    with progress(quiet=as_json) as announce:
        from packhorse_host.evaluate.evaluation import evaluate as run

        scored = _metric(metric, output, threshold, charset, blank, decoder)
        result = run(model, other, evaluation, scored, preprocessing, announce)
    for doubt in result.doubts:
        typer.secho(f"warning: {doubt}", err=True, fg=typer.colors.YELLOW, bold=True)
    if as_json:
        print_json(_described(model, other, result))
    else:
        _print(result)


def _metric(
    name: str,
    output: str | None,
    threshold: float | None,
    charset: Path | None,
    blank: int,
    decoder: str | None,
) -> Metric:
    from packhorse_host.evaluate.metrics.own import load_decoder
    from packhorse_host.evaluate.metrics.registry import MetricOptions, load_metric, read_alphabet

    options = MetricOptions(
        output=output,
        threshold=threshold,
        alphabet=read_alphabet(charset, blank) if charset else None,
        decoder=load_decoder(decoder) if decoder else None,
    )
    return load_metric(name, options)


def _described(model: Path, other: Path | None, result: Evaluation) -> dict[str, Any]:
    score = result.score
    return {
        "model": str(model),
        "quantized": str(other) if other else None,
        "metric": score.metric,
        "unit": score.unit,
        "samples": result.samples,
        "dataset_sha256": result.dataset_sha256,
        "score": score.value,
        "score_ci95": score.ci95,
        "quality": result.quality,
        "outputs": [dataclasses.asdict(each) for each in result.fidelity],
        "doubts": list(result.doubts),
    }


def _print(result: Evaluation) -> None:
    from packhorse_host.bundle.words import UNKNOWN, interval_text, metric_text

    quality = result.quality
    if quality is None:
        _print_one(result.score)
        return
    alike = quality.agreement_percent
    row = [
        metric_text(quality),
        f"{quality.fp32:.2f}",
        f"{quality.quantized:.2f}",
        interval_text(quality.drop_points, quality.drop_ci95_points),
        UNKNOWN if alike is None else f"{alike:.2f} %",
        str(quality.samples),
    ]
    print_table(["METRIC", "FP32", "QUANTIZED", "DROP (95 %)", "DECISIONS ALIKE", "SAMPLES"], [row])
    typer.echo()
    outputs = [[each.output, f"{each.sqnr_db:.1f}", f"{each.cosine_percent:.3f}"] for each in result.fidelity]
    print_table(["OUTPUT", "SQNR dB", "COSINE %"], outputs)


def _print_one(score: Score) -> None:
    from packhorse_host.evaluate.metrics.registry import metric_title

    figures = [f"{score.value:.2f}", f"{score.ci95.low:.2f} to {score.ci95.high:.2f}", str(score.samples)]
    headers = ["METRIC", score.unit.upper(), "95 % INTERVAL", "SAMPLES"]
    print_table(headers, [[metric_title(score.metric), *figures]])
