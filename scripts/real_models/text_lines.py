"""Lines of text as a recognizer sees them: drawn, with noise, and padded to the width of its input."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from PIL import Image, ImageDraw, ImageFont

HEIGHT, WIDTH = 48, 320
LETTERS = "ABCDEFGHJKLMNPQRSTUVWXYZabdefghijmnqrtuy23456789"
"""Without those that look alike alone, as many small letters and their capitals do."""
CALIBRATION, EVALUATION = 40, 160


def make_text_lines(model: Path, folder: Path) -> tuple[Path, list[str]]:
    """Write calibration, evaluation and character files for PP-OCR; the model, and options of `pack`."""
    session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    characters = session.get_modelmeta().custom_metadata_map["character"].splitlines()
    (folder / "charset.txt").write_text("\n".join([*characters, " "]) + "\n", encoding="utf-8")
    stream = np.random.default_rng(1)
    texts = [_text(stream) for _ in range(CALIBRATION + EVALUATION)]
    images = np.stack([_line(stream, text) for text in texts])
    name = session.get_inputs()[0].name
    _save(folder / "calibration.npz", {name: images[:CALIBRATION]}, None)
    _save(folder / "evaluation.npz", {name: images[CALIBRATION:]}, texts[CALIBRATION:])
    return model, ["--charset", str(folder / "charset.txt")]


def _text(stream: np.random.Generator) -> str:
    return "".join(stream.choice(list(LETTERS), size=stream.integers(5, 11)))


def _line(stream: np.random.Generator, text: str) -> Any:
    """FP32 [3, HEIGHT, WIDTH], BGR, -1 to 1: as PP-OCR is fed."""
    paper, ink = int(stream.integers(170, 255)), int(stream.integers(0, 90))
    font = ImageFont.load_default(32)
    image = Image.new("RGB", (min(int(font.getbbox(text)[2]) + 6, WIDTH), HEIGHT), (paper,) * 3)
    ImageDraw.Draw(image).text((3, int(stream.integers(0, 4))), text, fill=(ink,) * 3, font=font)
    pixels = np.asarray(image, np.float32)
    noisy = np.clip(pixels + stream.normal(0, 6, pixels.shape), 0, 255)
    line = np.zeros((HEIGHT, WIDTH, 3))
    line[:, : image.width] = (noisy / 255 - 0.5) / 0.5
    return line[:, :, ::-1].transpose(2, 0, 1).astype(np.float32)


def _save(path: Path, arrays: dict[str, Any], texts: Sequence[str] | None) -> None:
    truth: dict[str, Any] = {} if texts is None else {"texts": np.array(texts)}
    np.savez(path, **arrays, **truth)
