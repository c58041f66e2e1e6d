"""How images, sound and tokens become inputs: the description that travels with a model, as one JSON object.

`kind` tells which of the three it is; without it, images. What a device's application has to do is said once,
and done here alike when data are read from files.
"""

from __future__ import annotations

import json
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter, ValidationError, model_validator

from packhorse_agent.contract.base import HumanDocument
from packhorse_host.errors import BadInputError

Channels = Literal["gray", "red", "green", "blue"]
Axis = Annotated[int, Field(ge=1, le=65536)]

_ORDERS = (("gray",), ("red", "green", "blue"), ("blue", "green", "red"))


class ImagePreprocessing(HumanDocument):
    """From a picture to one input."""

    kind: Literal["image"] = "image"
    input: str | None = None
    """The model's input; the only one where it is not named."""
    layout: Literal["NCHW", "NHWC"]
    channels: tuple[Channels, ...]
    """`gray`, or `red`, `green`, `blue` in this order or the reverse."""
    height_px: Axis
    width_px: Axis
    resize: Literal["stretch", "cover", "contain"] = "stretch"
    """To exactly this size; so that it covers it, and what stands out in the middle's frame is cropped; or so
    that it fits inside, and `padding` fills the rest."""
    shorter_side_px: Axis | None = None
    """For `cover`: length of the shorter side before cropping, such as 256 for a crop of 224."""
    interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos", "box"] = "bilinear"
    padding: Annotated[int, Field(ge=0, le=255)] = 0
    """For `contain`: the value of what is filled."""
    anchor: Literal["centre", "top_left"] = "centre"
    """For `contain`: where the picture lies."""
    source_datatype: Literal["uint8"] = "uint8"
    formula: Literal[
        "(pixel / 255 - mean) / standard_deviation", "(pixel - mean) / standard_deviation", "pixel"
    ] = "(pixel / 255 - mean) / standard_deviation"
    mean: tuple[float, ...] = ()
    """For each channel in the order of `channels`; none: 0."""
    standard_deviation: tuple[Annotated[float, Field(gt=0)], ...] = ()
    """For each channel in the order of `channels`; none: 1."""
    background: str = ""
    """A word for people, such as the colour of what is no object."""

    @model_validator(mode="after")
    def _belongs_together(self) -> ImagePreprocessing:
        if self.channels not in _ORDERS:
            raise ValueError(f"channels must be one of {_ORDERS}")
        for name, values in (("mean", self.mean), ("standard_deviation", self.standard_deviation)):
            if len(values) not in (0, len(self.channels)):
                raise ValueError(f"{name}: {len(values)} values for {len(self.channels)} channels")
        side = self.shorter_side_px
        if side is not None and (self.resize != "cover" or side < min(self.height_px, self.width_px)):
            raise ValueError("shorter_side_px is for `cover`, and not less than the shorter side of the crop")
        return self


class AudioPreprocessing(HumanDocument):
    """From sound to frames, each of them one sample."""

    kind: Literal["audio"]
    input: str | None = None
    sample_rate_hz: Annotated[int, Field(ge=1, le=1_000_000)]
    frame_length: Annotated[int, Field(ge=1, le=100_000_000)]
    """Values in a frame; what remains at the end of a file and fills no frame is left out."""
    hop_length: Annotated[int, Field(ge=1)] | None = None
    """Values from the start of a frame to that of the next; none: `frame_length`."""
    scale: Literal["unit", "int16"] = "unit"
    """Values from -1 to 1, or from -32768 to 32767."""
    resample: bool = False
    """Whether sound of another rate is converted; else it is refused."""
    mix: bool = False
    """Whether several channels are averaged into one; else they are refused."""


class TokenPreprocessing(HumanDocument):
    """From lists of tokens to inputs of one length."""

    kind: Literal["tokens"]
    length: Annotated[int, Field(ge=1, le=1_000_000)]
    """Of every sample."""
    padding: dict[str, int] = Field(default_factory=dict)
    """What fills up a list that is shorter, by input; an input that is not named takes 0."""
    truncate: bool = False
    """Whether what is too long loses its end; else it is refused."""


Preprocessing = ImagePreprocessing | AudioPreprocessing | TokenPreprocessing
_ADAPTER: TypeAdapter[Preprocessing] = TypeAdapter(Annotated[Preprocessing, Field(discriminator="kind")])


def parse_preprocessing(text: str | bytes, where: str) -> Preprocessing:
    """Read a description strictly, so that data can be made by it.

    Raises:
        BadInputError: no JSON object, an unknown key, or a value that means nothing; begins with `where`.
    """
    try:
        content = json.loads(text)
    except ValueError as error:
        raise BadInputError(f"{where}: not JSON: {error}") from error
    if not isinstance(content, dict):
        raise BadInputError(f"{where}: a JSON object is expected, found a {type(content).__name__}")
    try:
        return _ADAPTER.validate_python({"kind": "image", **content})
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"][1:]) or "the description"
        raise BadInputError(f"{where}: {place}: {first['msg']}") from error
