"""Pictures and sounds of nothing have the statistics of things."""

from __future__ import annotations

import numpy as np
import pytest

from packhorse_host.quantize.data_free.pictures import picture, smooth_noise, sound


def stream(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.mark.parametrize(("height", "width"), [(28, 28), (1, 1), (7, 40)])
def test_pictures_have_the_wanted_size(height: int, width: int) -> None:
    pixels = picture(stream(), height, width, None)
    assert pixels.shape == (height, width, 3)
    assert pixels.dtype == np.uint8


def test_the_same_stream_draws_the_same_picture() -> None:
    np.testing.assert_array_equal(picture(stream(4), 32, 32, None), picture(stream(4), 32, 32, None))


def test_pictures_use_the_whole_range() -> None:
    random = stream()
    pixels = np.stack([picture(random, 32, 32, None) for _ in range(32)])
    assert (pixels.min(), pixels.max()) == (0, 255)
    assert 64 < pixels.mean() < 192


@pytest.mark.parametrize(("background", "value"), [(0.0, 0), (1.0, 255)])
def test_a_known_background_stays_free_of_texture(background: float, value: int) -> None:
    random = stream()
    pixels = np.stack([picture(random, 32, 32, background) for _ in range(32)])
    assert 0.25 < (pixels == value).all(axis=-1).mean() < 0.95


def test_neighbours_are_alike() -> None:
    """As in photographs, and not as in white noise."""
    random = stream()
    pixels = np.stack([picture(random, 64, 64, None) for _ in range(16)]).astype(np.float64)
    steps = np.abs(np.diff(pixels, axis=1)).mean()
    shuffled = random.permutation(pixels.reshape(-1, 3)).reshape(pixels.shape)
    assert steps < 0.5 * np.abs(np.diff(shuffled, axis=1)).mean()


@pytest.mark.parametrize("shape", [(64,), (16, 16), (5, 6, 7), (1,)])
def test_smooth_noise_is_normalized(shape: tuple[int, ...]) -> None:
    noise = smooth_noise(stream(), shape, 1.0)
    assert noise.shape == shape
    assert abs(noise.mean()) < 1e-9
    assert noise.std() == pytest.approx(1) or shape == (1,)


def test_sounds_stay_within_full_scale_and_differ_in_loudness() -> None:
    random = stream()
    peaks = [np.abs(sound(random, 512)).max() for _ in range(32)]
    assert max(peaks) <= 1
    assert max(peaks) > 16 * min(peaks)
