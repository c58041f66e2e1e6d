"""Accuracy of a hard variant by every recipe that is to be compared."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
import onnxruntime

from packhorse_agent.contract.base import sha256_hex
from packhorse_agent.contract.manifest import TensorSpec
from packhorse_agent.contract.recipe import StaticWi8Ai8
from packhorse_agent.runtime.datatypes import Array
from packhorse_host.evaluate.preprocessing import parse_preprocessing
from packhorse_host.evaluate.samples import ArraySamples, Samples
from packhorse_host.quantize.data_free.synthesize import SAMPLES, synthesize
from packhorse_host.quantize.emit_onnxruntime import emit
from packhorse_host.quantize.source import SourceModel
from packhorse_host.quantize.transform.means import as_written
from variants_builder.hard import make_hard

SAMPLE: Final = Path(__file__).parents[2] / "samples" / "fashion-mnist"
RECIPES: Final[Mapping[str, StaticWi8Ai8]] = {
    "plain, per channel": StaticWi8Ai8(),
    "plain, per tensor": StaticWi8Ai8(per_channel=False),
    "equalized": StaticWi8Ai8(equalize=True),
    "equalized, biases corrected": StaticWi8Ai8(equalize=True, correct_bias=True),
    "data-free": StaticWi8Ai8(equalize=True, correct_bias=True, data_free=True),
}
_BATCH: Final = 100


@dataclass(frozen=True)
class Score:
    """One model on the evaluation images."""

    spread_log2: float
    seed: int
    recipe: str
    """As in `RECIPES`, or `fp32`."""
    top1_percent: float
    drop_points: float
    agreement_percent: float
    """Share of images on which it decides as FP32."""


@dataclass(frozen=True)
class Data:
    """The sample's images."""

    images: Array
    labels: Array
    calibration: Samples


def read_data(every: int = 1) -> Data:
    """The sample's data; one image of `every`."""
    with np.load(SAMPLE / "evaluation.npz") as evaluation, np.load(SAMPLE / "calibration.npz") as calibration:
        return Data(
            evaluation["image"][::every],
            evaluation["labels"][::every],
            ArraySamples({"image": calibration["image"][::every]}),
        )


def measure(data: Data, spread_log2: float, seed: int) -> Iterator[Score]:
    """FP32 and every recipe, on one variant.

    Quantized models are computed as they are written: what a device's kernels give that do not saturate.
    """
    source = as_source(make_hard(onnx.load(SAMPLE / "model.onnx"), spread_log2, seed))
    reference = _decisions(source.data, data.images)
    yield _score(data, spread_log2, seed, "fp32", reference, reference)
    how = parse_preprocessing((SAMPLE / "preprocessing.json").read_bytes(), "preprocessing.json")
    for name, recipe in RECIPES.items():
        samples = synthesize(source, how, SAMPLES) if recipe.data_free else data.calibration
        decided = _decisions(emit(source, recipe, samples), data.images)
        yield _score(data, spread_log2, seed, name, decided, reference)


def as_source(model: Any) -> SourceModel:
    """A variant of the sample as what is quantized."""
    content: bytes = model.SerializeToString()
    image = TensorSpec(name="image", datatype="FP32", shape=(-1, 1, 28, 28))
    return SourceModel(
        content,
        sha256_hex(content),
        (image,),
        (TensorSpec(name="logits", datatype="FP32", shape=(-1, 10)),),
    )


def _decisions(model: bytes, images: Array) -> Array:
    session = onnxruntime.InferenceSession(model, as_written(), providers=["CPUExecutionProvider"])
    batches = range(0, len(images), _BATCH)
    answers = [session.run(None, {"image": images[start : start + _BATCH]})[0] for start in batches]
    decided: Array = np.concatenate(answers).argmax(axis=1)
    return decided


def _score(data: Data, spread_log2: float, seed: int, recipe: str, decided: Array, reference: Array) -> Score:
    right, wanted = (100 * float((each == data.labels).mean()) for each in (decided, reference))
    agreement = 100 * float((decided == reference).mean())
    return Score(spread_log2, seed, recipe, right, wanted - right, agreement)
