"""A folder of WAV files, cut into frames; each frame is a sample.

Format: RIFF WAVE with PCM of 8, 16, 24 or 32 bits, as the standard library's `wave` reads it.
"""

from __future__ import annotations

import contextlib
import wave
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from math import gcd
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from packhorse_agent.contract.manifest import TensorSpec
from packhorse_agent.runtime.datatypes import DTYPES, Array
from packhorse_host.errors import ConfigError
from packhorse_host.evaluate.errors import DataError, DataMismatchError
from packhorse_host.evaluate.preprocessing import AudioPreprocessing
from packhorse_host.evaluate.samples import LazySamples, Read
from packhorse_host.evaluate.sources.inputs import one_input

Floats = npt.NDArray[np.float64]

_HALF_WIDTH: Final = 16
"""Zero crossings of the resampling filter on either side."""
_KAISER_BETA: Final = 8.6
"""About 90 dB of stop band."""
_RESAMPLED_AT_ONCE: Final = 16_384


@dataclass(frozen=True)
class _File:
    path: Path
    rate_hz: int
    values: int
    """In each channel, at the declared rate."""


class WavSamples(LazySamples):
    """Frames of one file after the other."""

    def __init__(
        self, where: Path, files: Sequence[_File], spec: TensorSpec, how: AudioPreprocessing
    ) -> None:
        """`spec` is the only input of the model."""
        hop = how.hop_length or how.frame_length
        counts = [max(0, (file.values - how.frame_length) // hop + 1) for file in files]
        if not sum(counts):
            raise DataError(f"{where}: no file is as long as one frame of {how.frame_length} values")
        super().__init__(str(where), [spec], sum(counts))
        self._files, self._spec, self._how, self._hop = files, spec, how, hop
        self._starts = np.cumsum([0, *counts])

    @contextlib.contextmanager
    def _opened(self) -> Iterator[Read]:
        held: tuple[int, Floats] | None = None

        def sound(number: int) -> Floats:
            nonlocal held
            if held is None or held[0] != number:
                held = number, read_wav(self._files[number].path, self._how)
            return held[1]

        def read(indexes: Sequence[int], names: Collection[str]) -> dict[str, Array]:
            frames = []
            for index in indexes:
                number = int(np.searchsorted(self._starts, index, side="right")) - 1
                first = (index - int(self._starts[number])) * self._hop
                frames.append(sound(number)[first : first + self._how.frame_length])
            return dict.fromkeys(names, self._shaped(np.stack(frames)))

        yield read

    def _shaped(self, frames: Floats) -> Array:
        dtype = DTYPES[self._spec.datatype]
        axes = [1 if axis == -1 else axis for axis in self._spec.shape[1:]]
        if int(np.prod(axes)) != self._how.frame_length:  # the free axis is the frame's
            axes = [self._how.frame_length if axis == -1 else axis for axis in self._spec.shape[1:]]
        values = frames if dtype.kind == "f" else np.rint(frames)
        return values.reshape(len(frames), *axes).astype(dtype)


def open_wavs(where: Path, files: Sequence[Path], inputs: Sequence[TensorSpec], how: object) -> WavSamples:
    """The sound of `files` as samples; their headers are read and held to what is declared.

    Raises:
        ConfigError: it is not declared how sound becomes inputs.
        DataError: a file is no WAV, of another rate, or has several channels.
        DataMismatchError: what is declared does not fit the model.
    """
    if not isinstance(how, AudioPreprocessing):
        raise ConfigError(f"{where}: sound needs a preprocessing description of kind `audio`")
    spec = one_input(inputs, how.input, str(where))
    free = spec.shape[1:].count(-1)
    fixed = int(np.prod([axis for axis in spec.shape[1:] if axis != -1]))
    if free > 1 or (how.frame_length != fixed if free == 0 else fixed != 1):
        raise DataMismatchError(
            f"{where}: `{spec.name}` takes {list(spec.shape[1:])}, frames have {how.frame_length} values"
        )
    if DTYPES[spec.datatype].kind != "f" and (how.scale != "int16" or spec.datatype != "INT16"):
        raise DataMismatchError(f"{where}: `{spec.name}` is {spec.datatype}; floats or INT16 are expected")
    return WavSamples(where, [_header(file, how) for file in files], spec, how)


def read_wav(path: Path, how: AudioPreprocessing) -> Floats:
    """One channel of sound at the declared rate and scale.

    Raises:
        DataError: damaged, or not as declared.
    """
    with _reading(path, how) as sound:
        width, channels, rate_hz = sound.getsampwidth(), sound.getnchannels(), sound.getframerate()
        count = sound.getnframes()
        data = sound.readframes(count)
    if len(data) != count * channels * width:
        raise DataError(f"{path}: damaged: it ends early")
    mono = _unit(data, width).reshape(-1, channels).mean(axis=1)
    heard = resample(mono, rate_hz, how.sample_rate_hz)
    return heard * 32768 if how.scale == "int16" else heard


def resample(sound: Floats, from_hz: int, to_hz: int) -> Floats:
    """Band-limited interpolation by a windowed sinc; the result has `resampled_length` values.

    Source: J. O. Smith, "Digital Audio Resampling", CCRMA, Stanford, 2002, with a Kaiser window; the
    cut-off is half the lower of both rates.
    """
    if from_hz == to_hz:
        return sound
    cut = min(1.0, to_hz / from_hz)
    reach = int(np.ceil(_HALF_WIDTH / cut))
    padded = np.pad(sound, reach + 1)
    length = resampled_length(len(sound), from_hz, to_hz)
    parts = []
    for start in range(0, length, _RESAMPLED_AT_ONCE):
        times = np.arange(start, min(start + _RESAMPLED_AT_ONCE, length)) * (from_hz / to_hz)
        nearest = np.floor(times).astype(np.int64)
        taps = nearest[:, np.newaxis] + np.arange(-reach, reach + 1)
        distances = taps - times[:, np.newaxis]
        window = np.i0(_KAISER_BETA * np.sqrt(np.clip(1 - (distances / (reach + 1)) ** 2, 0, None)))
        weights = cut * np.sinc(cut * distances) * window / np.i0(_KAISER_BETA)
        parts.append((weights * padded[taps + reach + 1]).sum(axis=1))
    return np.concatenate(parts) if parts else np.zeros(0)


def resampled_length(values: int, from_hz: int, to_hz: int) -> int:
    """How many values a sound has at another rate."""
    common = gcd(from_hz, to_hz)
    return values * (to_hz // common) // (from_hz // common)


def _unit(data: bytes, width: int) -> Floats:
    """PCM of `width` bytes as numbers from -1 to 1."""
    if width == 1:  # the one width that is unsigned
        values = np.frombuffer(data, np.uint8).astype(np.int32) - 128
    elif width == 3:
        low, middle, high = np.frombuffer(data, np.uint8).reshape(-1, 3).T.astype(np.int32)
        values = (low | middle << 8 | high << 16) - ((high & 0x80) << 17)
    else:
        values = np.frombuffer(data, f"<i{width}")
    scaled: Floats = values / 2.0 ** (8 * width - 1)
    return scaled


def _header(path: Path, how: AudioPreprocessing) -> _File:
    with _reading(path, how) as sound:
        rate_hz = sound.getframerate()
        return _File(path, rate_hz, resampled_length(sound.getnframes(), rate_hz, how.sample_rate_hz))


@contextlib.contextmanager
def _reading(path: Path, how: AudioPreprocessing) -> Iterator[wave.Wave_read]:
    try:
        with wave.open(str(path), "rb") as sound:
            _check_declared(path, sound, how)
            yield sound
    except (wave.Error, EOFError, OSError) as error:
        raise DataError(f"{path}: not a WAV file with PCM, or damaged: {error}") from error


def _check_declared(path: Path, sound: wave.Wave_read, how: AudioPreprocessing) -> None:
    rate_hz, channels = sound.getframerate(), sound.getnchannels()
    if rate_hz != how.sample_rate_hz and not how.resample:
        raise DataError(
            f"{path}: {rate_hz} Hz, {how.sample_rate_hz} Hz are declared; "
            'convert it, or declare "resample": true'
        )
    if channels != 1 and not how.mix:
        raise DataError(f'{path}: {channels} channels, one is expected; convert it, or declare "mix": true')
    if sound.getsampwidth() not in (1, 2, 3, 4) or rate_hz < 1:
        raise DataError(f"{path}: {8 * sound.getsampwidth()} bits at {rate_hz} Hz cannot be read")
