"""Calibration inputs made from what is known of a model: its inputs, its preprocessing, its statistics."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import onnx
from PIL import Image

from packhorse_agent.contract.manifest import TensorSpec
from packhorse_agent.runtime.datatypes import DTYPES, Array
from packhorse_host.evaluate.preprocessing import (
    AudioPreprocessing,
    ImagePreprocessing,
    Preprocessing,
    TokenPreprocessing,
)
from packhorse_host.evaluate.samples import ArraySamples
from packhorse_host.evaluate.sources.images import prepare_image
from packhorse_host.quantize.data_free.pictures import Floats, picture, smooth_noise, sound
from packhorse_host.quantize.data_free.statistics import choose_matching, find_batch_norms
from packhorse_host.quantize.data_free.tokens import integers, table_rows
from packhorse_host.quantize.errors import ModelError
from packhorse_host.quantize.graph import open_session, quiet_options
from packhorse_host.quantize.source import SourceModel
from packhorse_host.quantize.transform.fold import BatchNorm
from packhorse_host.quantize.transform.layers import GraphView

SAMPLES: Final = 128
"""What a recipe without data is calibrated on: ranges of made-up inputs settle long before."""
CHOICE: Final = 4
"""Inputs that are made for each one that is kept, where the model's own statistics can choose."""
FREE_SIDE_PX: Final = 224
"""Height and width of pictures where neither model nor preprocessing fixes them."""
FREE_LENGTH: Final = 64
"""Length of any other axis that nothing fixes."""

_BACKGROUNDS: Final = {"black": 0.0, "white": 1.0}
_COLOURS: Final = (1, 3)
_BATCH: Final = 32


def synthesize(source: SourceModel, preprocessing: Preprocessing | None, count: int) -> ArraySamples:
    """Made-up inputs, the same each time.

    Pictures for image inputs, through the declared preprocessing (none: scaled to about -2 to 2, as models
    with normalized inputs take them); tones and noise for declared sound; tokens of the model's vocabulary
    for integers; smooth noise for all else. Where the model still holds batch normalisations, those are kept
    that match their statistics best.

    Raises:
        ModelError: the model does not run on them.
    """
    model = onnx.shape_inference.infer_shapes(onnx.load_model_from_string(source.data))
    view = GraphView(model)
    norms = _matchable(model, view)
    maker = _Maker(np.random.default_rng(0), view, preprocessing, len(source.inputs) == 1)
    made = count * CHOICE if norms else count
    pool = ArraySamples({spec.name: maker.draw(spec, made) for spec in source.inputs})
    _run_once(source, pool)
    if not norms:
        return pool
    return pool.take(choose_matching(model, norms, pool, count, 1 if source.one_at_a_time else _BATCH))


@dataclass(frozen=True)
class _Maker:
    stream: np.random.Generator
    view: GraphView
    preprocessing: Preprocessing | None
    only_input: bool

    def draw(self, spec: TensorSpec, count: int) -> Array:
        """`[count, ...]` for one input."""
        dtype = DTYPES[spec.datatype]
        how = self.preprocessing if self._describes(spec) else None
        if isinstance(how, ImagePreprocessing):
            return np.stack([prepare_image(self._declared(how), how, dtype) for _ in range(count)])
        shape = _filled(spec, self.preprocessing)
        if dtype.kind != "f":
            rows = table_rows(self.view, spec.name)
            return integers(self.stream, spec.name, rows, (count, *shape), dtype)
        return np.stack([self._floats(shape, how) for _ in range(count)]).astype(dtype)

    def _describes(self, spec: TensorSpec) -> bool:
        named = getattr(self.preprocessing, "input", None)
        return self.only_input if named is None else bool(named == spec.name)

    def _declared(self, how: ImagePreprocessing) -> Image.Image:
        alone = _BACKGROUNDS.get(how.background)
        return Image.fromarray(picture(self.stream, how.height_px, how.width_px, alone))

    def _floats(self, shape: tuple[int, ...], how: Preprocessing | None) -> Floats:
        if isinstance(how, AudioPreprocessing):
            loudest = 1.0 if how.scale == "unit" else 32767.0
            return loudest * sound(self.stream, int(np.prod(shape))).reshape(shape)
        if len(shape) == 3 and (shape[0] in _COLOURS or shape[2] in _COLOURS):
            return self._undeclared(shape)
        return smooth_noise(self.stream, shape, self.stream.uniform(0, 1))

    def _undeclared(self, shape: tuple[int, ...]) -> Floats:
        channels_first = shape[0] in _COLOURS
        height, width = shape[1:] if channels_first else shape[:2]
        pixels = picture(self.stream, height, width, None) / 63.75 - 2
        channels = pixels[..., : shape[0] if channels_first else shape[2]]
        return channels.transpose(2, 0, 1) if channels_first else channels


def _filled(spec: TensorSpec, preprocessing: Preprocessing | None) -> tuple[int, ...]:
    """The shape of one sample, with a length for every axis that the model leaves free."""
    shape = spec.shape[1:]
    free = FREE_LENGTH
    if len(shape) == 3 and (shape[0] in _COLOURS or shape[2] in _COLOURS):
        free = FREE_SIDE_PX
    elif isinstance(preprocessing, TokenPreprocessing):
        free = preprocessing.length
    elif isinstance(preprocessing, AudioPreprocessing):
        free = preprocessing.frame_length
    return tuple(free if length == -1 else length for length in shape)


def _matchable(model: Any, view: GraphView) -> list[BatchNorm]:
    """The batch normalisations over positions, whose statistics one sample has too."""
    values = (*model.graph.value_info, *model.graph.output)
    ranks = {value.name: len(value.type.tensor_type.shape.dim) for value in values}
    return [norm for norm in find_batch_norms(view) if ranks.get(norm.node.input[0], 0) > 2]


def _run_once(source: SourceModel, samples: ArraySamples) -> None:
    session = open_session(source.data, quiet_options())
    try:
        session.run(None, next(samples.batches(1)))
    except Exception as error:  # whatever a runtime raises on an input that it does not take
        raise ModelError(
            "the model does not run on made-up inputs: give --calibration; "
            + str(error).splitlines()[0][:200]
        ) from error
