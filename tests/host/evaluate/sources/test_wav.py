"""Folders of sound: frames as declared, and other rates are refused unless that is declared."""

from __future__ import annotations

import wave
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from packhorse_agent.contract.manifest import TensorSpec
from packhorse_agent.runtime.datatypes import Array
from packhorse_host.errors import ConfigError
from packhorse_host.evaluate.errors import DataError, DataMismatchError
from packhorse_host.evaluate.preprocessing import AudioPreprocessing
from packhorse_host.evaluate.read import read_calibration, read_evaluation
from packhorse_host.evaluate.samples import Samples
from packhorse_host.evaluate.sources.wav import resample, resampled_length
from tests.host.float_models import save_npz

RATE = 16_000


def how(**changes: Any) -> AudioPreprocessing:
    content: dict[str, Any] = {"kind": "audio", "sample_rate_hz": RATE, "frame_length": 4}
    return AudioPreprocessing.model_validate(content | changes)


def sound_input(*shape: int, datatype: Any = "FP32") -> TensorSpec:
    return TensorSpec(name="sound", datatype=datatype, shape=(-1, *shape))


def save(path: Path, values: Array, rate_hz: int = RATE) -> Path:
    """16 bits, [N] or [N, channels]."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1 if values.ndim == 1 else values.shape[1])
        file.setsampwidth(2)
        file.setframerate(rate_hz)
        file.writeframes(values.astype("<i2").tobytes())
    return path


def whole(samples: Samples) -> Array:
    return samples.take(range(samples.count)).arrays["sound"]


def test_frames_follow_each_other_file_after_file(tmp_path: Path) -> None:
    """What fills no frame is left out, and a short file has none."""
    save(tmp_path / "b.wav", np.arange(100, 110))
    save(tmp_path / "a.wav", np.arange(8))
    save(tmp_path / "c.wav", np.arange(3))
    samples = read_calibration(tmp_path, [sound_input(4)], how(scale="int16"))
    expected = [[0, 1, 2, 3], [4, 5, 6, 7], [100, 101, 102, 103], [104, 105, 106, 107]]
    assert whole(samples).tolist() == expected
    assert samples.take([3, 0]).arrays["sound"].tolist() == [expected[3], expected[0]]


def test_frames_that_overlap(tmp_path: Path) -> None:
    save(tmp_path / "a.wav", np.arange(8))
    found = whole(read_calibration(tmp_path, [sound_input(1, 4)], how(hop_length=2, scale="int16")))
    assert found[:, 0].tolist() == [[0, 1, 2, 3], [2, 3, 4, 5], [4, 5, 6, 7]]


@pytest.mark.parametrize("axes", [(4,), (-1,), (1, 4), (4, 1), (1, -1)])
def test_frames_take_the_shape_of_the_input(tmp_path: Path, axes: tuple[int, ...]) -> None:
    save(tmp_path / "a.wav", np.arange(4))
    found = whole(read_calibration(tmp_path, [sound_input(*axes)], how(scale="int16")))
    assert found.shape == (1, *(4 if axis == -1 else axis for axis in axes))
    assert found.reshape(-1).tolist() == [0, 1, 2, 3]


def test_integers_stay_as_they_are(tmp_path: Path) -> None:
    save(tmp_path / "a.wav", np.array([-32768, 0, 1, 32767]))
    found = whole(read_calibration(tmp_path, [sound_input(4, datatype="INT16")], how(scale="int16")))
    assert found.dtype == np.int16
    assert found.tolist() == [[-32768, 0, 1, 32767]]


@pytest.mark.parametrize(
    ("width", "data"),
    [
        (1, bytes([0, 128, 192, 255])),
        (2, np.array([-32768, 0, 16384, 32512], "<i2").tobytes()),
        (3, b"\0\0\x80" + b"\0\0\0" + b"\0\0\x40" + b"\0\0\x7f"),
        (4, np.array([-(2**31), 0, 2**30, 127 * 2**24], "<i4").tobytes()),
    ],
)
def test_all_widths_mean_the_same(tmp_path: Path, width: int, data: bytes) -> None:
    with wave.open(str(tmp_path / "a.wav"), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(width)
        file.setframerate(RATE)
        file.writeframes(data)
    found = whole(read_calibration(tmp_path, [sound_input(4)], how()))
    np.testing.assert_allclose(found[0], [-1, 0, 0.5, 127 / 128])


def test_truth_counts_frames(tmp_path: Path) -> None:
    save(tmp_path / "a.wav", np.arange(8))
    save_npz(tmp_path / "truth.npz", labels=np.array([0, 1]))
    assert read_evaluation(tmp_path, [sound_input(4)], how()).truth.arrays["labels"].tolist() == [0, 1]


def test_several_channels_are_mixed_only_if_declared(tmp_path: Path) -> None:
    save(tmp_path / "a.wav", np.array([[0, 2], [2, 4], [4, 6], [6, 8]]))
    with pytest.raises(DataError, match=r'2 channels, one is expected.*"mix": true'):
        read_calibration(tmp_path, [sound_input(4)], how())
    mixed = whole(read_calibration(tmp_path, [sound_input(4)], how(mix=True, scale="int16")))
    assert mixed.tolist() == [[1, 3, 5, 7]]


def test_another_rate_is_refused_unless_declared(tmp_path: Path) -> None:
    save(tmp_path / "a.wav", np.zeros(800), 8_000)
    with pytest.raises(DataError, match=r'8000 Hz, 16000 Hz are declared.*"resample": true'):
        read_calibration(tmp_path, [sound_input(4)], how())
    assert read_calibration(tmp_path, [sound_input(4)], how(resample=True)).count == 400


@pytest.mark.parametrize(("from_hz", "to_hz"), [(8_000, 16_000), (44_100, 16_000), (16_000, 48_000)])
def test_a_tone_stays_the_tone(from_hz: int, to_hz: int) -> None:
    """440 Hz, up and down: within 60 dB away from the ends."""
    tone = np.sin(2 * np.pi * 440 * np.arange(from_hz // 5) / from_hz)
    found = resample(tone, from_hz, to_hz)
    expected = np.sin(2 * np.pi * 440 * np.arange(len(found)) / to_hz)
    middle = slice(len(found) // 4, -len(found) // 4)
    assert np.abs(found[middle] - expected[middle]).max() < 1e-3


def test_what_the_lower_rate_cannot_hold_is_gone() -> None:
    """7 kHz at 8,000 Hz would come back as 1 kHz."""
    tone = np.sin(2 * np.pi * 7_000 * np.arange(4_000) / 16_000)
    assert np.abs(resample(tone, 16_000, 8_000)[200:-200]).max() < 1e-3


@given(st.integers(0, 300), st.integers(1, 50), st.integers(1, 50))
def test_lengths_are_known_before(values: int, from_hz: int, to_hz: int) -> None:
    assert len(resample(np.ones(values), from_hz, to_hz)) == resampled_length(values, from_hz, to_hz)


@pytest.mark.parametrize("content", [b"", b"RIFF", b"a text that is no sound at all"])
def test_files_that_are_no_sound(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.wav").write_bytes(content)
    with pytest.raises(DataError, match=r"a.wav: not a WAV file"):
        read_calibration(tmp_path, [sound_input(4)], how())


def test_sound_that_is_cut_short(tmp_path: Path) -> None:
    path = save(tmp_path / "a.wav", np.arange(100))
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(DataError, match="damaged"):
        read_calibration(tmp_path, [sound_input(4)], how())


def test_no_file_as_long_as_a_frame(tmp_path: Path) -> None:
    save(tmp_path / "a.wav", np.arange(3))
    with pytest.raises(DataError, match="no file is as long as one frame of 4 values"):
        read_calibration(tmp_path, [sound_input(4)], how())


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        (sound_input(5), r"takes \[5\], frames have 4 values"),
        (sound_input(-1, -1), "frames have 4"),
        (sound_input(2, -1), "frames have 4"),
        (sound_input(4, datatype="INT8"), "floats or INT16"),
        (sound_input(4, datatype="INT16"), "floats or INT16"),
    ],
)
def test_frames_that_do_not_fit_the_model(tmp_path: Path, spec: TensorSpec, words: str) -> None:
    save(tmp_path / "a.wav", np.arange(8))
    with pytest.raises(DataMismatchError, match=words):
        read_calibration(tmp_path, [spec], how())


def test_sound_needs_a_description(tmp_path: Path) -> None:
    save(tmp_path / "a.wav", np.arange(8))
    with pytest.raises(ConfigError, match="of kind `audio`"):
        read_calibration(tmp_path, [sound_input(4)])
