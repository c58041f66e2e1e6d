"""Synthetic speech between silences, under noise, frame by frame with the model's own recurrent state."""

from __future__ import annotations

import io
import shutil
import subprocess
import wave
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from packhorse_host.errors import EnvironmentFaultError

RATE_HZ = 16_000
FRAME, CONTEXT = 512, 64
"""Samples in a frame, and those of the frame before that the model sees again."""
CLIPS, CALIBRATION, EVALUATION = 14, 400, 3000
VOICES = ("en", "en-us+f2", "de+m3", "fr+f4", "es", "it+f2")
TEXT = (
    "the quick brown fox jumps over a lazy dog while seven little engines carry water from river to town and "
    "nobody listens when rain falls on cold empty roads beyond mountains"
)


def make_speech(model: Path, folder: Path) -> tuple[Path, list[str]]:
    """Write calibration and evaluation frames for Silero VAD; the model, and options of `pack`.

    Raises:
        EnvironmentFaultError: espeak-ng, which speaks, is not installed.
    """
    if shutil.which("espeak-ng") is None:
        raise EnvironmentFaultError("speech is made by espeak-ng: apt install espeak-ng")
    stream = np.random.default_rng(3)
    session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    frames = [frame for index in range(CLIPS) for frame in _frames(session, *_clip(stream, index))]
    order = stream.permutation(len(frames))
    _save(folder / "calibration.npz", [frames[index] for index in order[:CALIBRATION]])
    _save(folder / "evaluation.npz", [frames[index] for index in order[CALIBRATION:][:EVALUATION]])
    return model, []


def _clip(stream: np.random.Generator, index: int) -> tuple[Any, Any]:
    """Samples, and whether each belongs to speech."""
    parts: list[Any] = []
    labels: list[Any] = []
    for sentence in range(3):
        silence = np.zeros(stream.integers(RATE_HZ // 2, RATE_HZ * 5 // 4))
        spoken = _spoken(stream, VOICES[(3 * index + sentence) % len(VOICES)]) * stream.uniform(0.3, 1)
        loudness = np.convolve(np.abs(spoken), np.full(RATE_HZ // 10, 10 / RATE_HZ), "same")
        parts += [silence, spoken]
        labels += [silence > 0, loudness > 0.01]
    samples = np.concatenate(parts)
    noise = stream.normal(size=len(samples)) * 10 ** stream.uniform(-3.2, -1.8)
    return (samples + noise).astype(np.float32), np.concatenate(labels)


def _spoken(stream: np.random.Generator, voice: str) -> Any:
    text = " ".join(stream.choice(TEXT.split(), size=stream.integers(4, 9)))
    speed, pitch = int(stream.integers(120, 190)), int(stream.integers(20, 80))
    command = ["espeak-ng", "-v", voice, "-s", str(speed), "-p", str(pitch), "--stdout", text]
    sound = subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout
    with wave.open(io.BytesIO(sound)) as file:
        rate, samples = file.getframerate(), np.frombuffer(file.readframes(file.getnframes()), np.int16)
    length = len(samples) * RATE_HZ // rate
    return np.interp(np.arange(length) * rate / RATE_HZ, np.arange(len(samples)), samples / 32768)


def _frames(session: Any, samples: Any, labels: Any) -> list[dict[str, Any]]:
    frames: list[dict[str, Any]] = []
    hidden = cell = np.zeros((1, 1, 128), np.float32)
    context = np.zeros(CONTEXT, np.float32)
    for start in range(0, len(samples) - FRAME, FRAME):
        heard = np.concatenate([context, samples[start : start + FRAME]])
        context = heard[-CONTEXT:]
        label = int(labels[start : start + FRAME].mean() > 0.5)
        frames.append({"input": heard, "h": hidden[0], "c": cell[0], "labels": label})
        _, hidden, cell = session.run(None, {"input": heard[np.newaxis], "h": hidden, "c": cell})
    return frames


def _save(path: Path, frames: list[dict[str, Any]]) -> None:
    arrays: dict[str, Any] = {
        name: np.stack([np.asarray(frame[name]) for frame in frames]) for name in frames[0]
    }
    np.savez(path, **arrays)
