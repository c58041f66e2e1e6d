"""A folder of images, each made into an input when it is asked for."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from packhorse_agent.contract.manifest import TensorSpec
from packhorse_agent.runtime.datatypes import DTYPES, Array
from packhorse_host.errors import ConfigError
from packhorse_host.evaluate.errors import DataError, DataMismatchError
from packhorse_host.evaluate.preprocessing import ImagePreprocessing
from packhorse_host.evaluate.samples import LazySamples, Read
from packhorse_host.evaluate.sources.inputs import one_input

IMAGE_SUFFIXES: Final = (".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
_FORMATS: Final = ("BMP", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
_DEEP_MODES: Final = ("F", "I", "I;16", "I;16B", "I;16L")
_INTERPOLATIONS: Final = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
    "box": Image.Resampling.BOX,
}


class ImageSamples(LazySamples):
    """One image a sample."""

    def __init__(self, where: Path, files: Sequence[Path], spec: TensorSpec, how: ImagePreprocessing) -> None:
        """`spec` is the only input of the model."""
        super().__init__(str(where), [spec], len(files))
        self._files = files
        self._spec = spec
        self._how = how

    @contextlib.contextmanager
    def _opened(self) -> Iterator[Read]:
        def read(indexes: Sequence[int], names: Collection[str]) -> dict[str, Array]:
            arrays = [self._one(self._files[index]) for index in indexes]
            return dict.fromkeys(names, np.stack(arrays))

        yield read

    def _one(self, file: Path) -> Array:
        return prepare_image(load_image(file), self._how, DTYPES[self._spec.datatype])


def open_images(
    where: Path, files: Sequence[Path], inputs: Sequence[TensorSpec], how: object
) -> ImageSamples:
    """The images `files` as samples.

    Raises:
        ConfigError: it is not declared how images become inputs.
        DataMismatchError: what is declared does not fit the model.
    """
    if not isinstance(how, ImagePreprocessing):
        raise ConfigError(f"{where}: images need a preprocessing description of kind `image`")
    spec = one_input(inputs, how.input, str(where))
    depth = len(how.channels)
    sides = (how.height_px, how.width_px)
    axes = (depth, *sides) if how.layout == "NCHW" else (*sides, depth)
    fits = len(spec.shape) == 4 and all(
        want in (-1, have) for want, have in zip(spec.shape[1:], axes, strict=True)
    )
    if not fits:
        raise DataMismatchError(
            f"{where}: the preprocessing description makes {how.layout} {list(axes)}, "
            f"`{spec.name}` takes {list(spec.shape[1:])}"
        )
    if DTYPES[spec.datatype].kind != "f" and how.formula != "pixel":
        raise DataMismatchError(f"{where}: `{spec.name}` is {spec.datatype}: its formula must be `pixel`")
    return ImageSamples(where, files, spec, how)


def load_image(file: Path) -> Image.Image:
    """Decode a picture, turned as its EXIF orientation says.

    Raises:
        DataError: it cannot be decoded, is too large to be a picture, or has more than 8 bits a channel.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(file, formats=_FORMATS) as image:
                image.load()
                turned = ImageOps.exif_transpose(image)
    except UnidentifiedImageError as error:
        raise DataError(f"{file}: not an image, or damaged") from error
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise DataError(f"{file}: {error}") from error
    except (OSError, SyntaxError, ValueError, EOFError) as error:  # decoders raise any of them
        raise DataError(f"{file}: damaged: {error}") from error
    if turned.mode in _DEEP_MODES:
        raise DataError(f"{file}: more than 8 bits a channel ({turned.mode}); 8 are expected")
    return turned


def prepare_image(image: Image.Image, how: ImagePreprocessing, dtype: np.dtype[np.generic]) -> Array:
    """From a picture to one sample, without the axis that counts samples."""
    gray = how.channels == ("gray",)
    pixels = np.asarray(_resized(image.convert("L" if gray else "RGB"), how))
    pixels = pixels[..., np.newaxis] if gray else pixels
    if how.channels[0] == "blue":
        pixels = pixels[..., ::-1]
    values = pixels if how.formula == "pixel" else _normalized(pixels, how)
    ordered: Array = values.transpose(2, 0, 1) if how.layout == "NCHW" else values
    return np.ascontiguousarray(ordered, dtype=dtype)


def _normalized(pixels: Array, how: ImagePreprocessing) -> Array:
    mean = np.array(how.mean or (0.0,), np.float32)
    deviation = np.array(how.standard_deviation or (1.0,), np.float32)
    values = pixels.astype(np.float32)
    if how.formula.startswith("(pixel / 255"):
        values /= np.float32(255)
    normalized: Array = (values - mean) / deviation
    return normalized


def _resized(image: Image.Image, how: ImagePreprocessing) -> Image.Image:
    size = how.width_px, how.height_px
    filtering = _INTERPOLATIONS[how.interpolation]
    if how.resize == "stretch":
        return image if image.size == size else image.resize(size, filtering)
    if how.resize == "cover":
        return _cropped(image, how, filtering)
    scale = min(size[0] / image.width, size[1] / image.height)
    inner = tuple(max(1, min(most, round(side * scale))) for side, most in zip(image.size, size, strict=True))
    filled = Image.new(image.mode, size, how.padding if image.mode == "L" else (how.padding,) * 3)
    corner = (0, 0) if how.anchor == "top_left" else ((size[0] - inner[0]) // 2, (size[1] - inner[1]) // 2)
    filled.paste(image.resize((inner[0], inner[1]), filtering), corner)
    return filled


def _cropped(image: Image.Image, how: ImagePreprocessing, filtering: Image.Resampling) -> Image.Image:
    width, height = how.width_px, how.height_px
    if how.shorter_side_px is not None:
        scale = how.shorter_side_px / min(image.size)
    else:
        scale = max(width / image.width, height / image.height)
    covering = max(width, round(image.width * scale)), max(height, round(image.height * scale))
    left, top = (covering[0] - width) // 2, (covering[1] - height) // 2
    return image.resize(covering, filtering).crop((left, top, left + width, top + height))
