"""Pictures and sounds of nothing, with the statistics of things.

Source of the pictures: Lee, Mumford and Huang 2001, "Occlusion Models for Natural Images" (shapes of every
size that hide one another), and for training and calibrating on such noise Baradad et al. 2021, "Learning to
See by Looking at Noise". The texture on them has the 1/f amplitude spectrum of photographs (Field 1987).
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Pixels = npt.NDArray[np.uint8]

LEAVES_MAX: Final = 128
"""Shapes on a picture; their number is drawn so that 1 to 2 are as likely as 64 to 128."""
_RADIUS_MIN: Final = 0.03
"""Of the shorter side; smaller ones are noise."""
_TEXTURE_MAX: Final = 0.3


def picture(stream: np.random.Generator, height: int, width: int, background: float | None) -> Pixels:
    """One picture, `[height, width, 3]`: shapes that hide one another, with texture.

    Args:
        stream: what everything is drawn from.
        height: in pixels.
        width: in pixels.
        background: 0 (black) to 1 (white) where objects are known to stand alone; None: there is none.
    """
    canvas = np.empty((height, width, 3))
    canvas[:] = stream.uniform(0, 1, 3) if background is None else background
    for _ in range(int(2 ** stream.uniform(0, np.log2(LEAVES_MAX)))):
        _drop_leaf(stream, canvas)
    texture = smooth_noise(stream, (height, width), exponent=1.0)[..., None]
    canvas += stream.uniform(0, _TEXTURE_MAX) * texture * (canvas != background)
    return np.asarray(np.clip(np.rint(255 * canvas), 0, 255), np.uint8)


def sound(stream: np.random.Generator, length: int) -> Floats:
    """`[length]` in -1 to 1: a few tones over coloured noise, from a whisper to full scale."""
    time = np.arange(length)
    tones = [
        stream.uniform(0, 1) * np.sin(2 * np.pi * time * 2 ** stream.uniform(-9, -1.5) + stream.uniform(0, 6))
        for _ in range(stream.integers(0, 6))
    ]
    mixed = sum(tones, stream.uniform(0.1, 1) * smooth_noise(stream, (length,), stream.uniform(0, 1)))
    peak = float(np.abs(mixed).max()) or 1.0
    louder: Floats = mixed / peak * 2 ** stream.uniform(-8, 0)
    return louder


def smooth_noise(stream: np.random.Generator, shape: tuple[int, ...], exponent: float) -> Floats:
    """Noise with an amplitude spectrum of 1 / frequency ** exponent, mean 0 and deviation 1."""
    frequencies = np.meshgrid(*(np.fft.fftfreq(length) * length for length in shape), indexing="ij")
    distance = np.sqrt(sum(np.square(axis) for axis in frequencies))
    spectrum = np.fft.fftn(stream.standard_normal(shape)) / np.maximum(distance, 1) ** exponent
    noise: Floats = np.fft.ifftn(spectrum).real
    normal: Floats = (noise - noise.mean()) / (noise.std() or 1.0)
    return normal


def _drop_leaf(stream: np.random.Generator, canvas: Floats) -> None:
    height, width, _ = canvas.shape
    side = min(height, width)
    # Density of radii proportional to r ** -3: then the picture looks alike at every scale.
    radius = side * _RADIUS_MIN / np.sqrt(1 - stream.uniform(0, 1 - (2 * _RADIUS_MIN) ** 2))
    aspect = 2 ** stream.uniform(-1, 1)
    row, column = stream.uniform(0, height), stream.uniform(0, width)
    rows = (np.arange(height)[:, None] - row) / (radius * aspect)
    columns = (np.arange(width)[None, :] - column) / (radius / aspect)
    round_one = stream.uniform() < 0.5
    inside = rows**2 + columns**2 < 1 if round_one else np.maximum(np.abs(rows), np.abs(columns)) < 1
    gray, tint = stream.uniform(0, 1), stream.normal(0, 0.15, 3)
    canvas[inside] = np.clip(gray + tint, 0, 1)
