"""Folders of images: made into inputs as declared, and what is no picture is named."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from packhorse_agent.contract.manifest import TensorSpec
from packhorse_agent.runtime.datatypes import DTYPES, Array
from packhorse_host.errors import BadInputError, ConfigError
from packhorse_host.evaluate.errors import DataError, DataMismatchError, LabelsError
from packhorse_host.evaluate.preprocessing import ImagePreprocessing
from packhorse_host.evaluate.read import read_calibration, read_evaluation
from packhorse_host.evaluate.samples import arrays_sha256
from packhorse_host.evaluate.sources import images as images_module
from packhorse_host.evaluate.sources.images import load_image, prepare_image
from tests.host.float_models import save_npz

RGB = ("red", "green", "blue")
FP32 = DTYPES["FP32"]


def how(**changes: Any) -> ImagePreprocessing:
    content: dict[str, Any] = {"layout": "NCHW", "channels": RGB, "height_px": 4, "width_px": 6}
    return ImagePreprocessing.model_validate(content | changes)


def image_input(*shape: int, datatype: Any = "FP32") -> TensorSpec:
    return TensorSpec(name="image", datatype=datatype, shape=(-1, *shape))


def picture(height: int = 4, width: int = 6, seed: int = 0) -> Array:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3))
    return pixels.astype(np.uint8)


def save(path: Path, pixels: Array, **options: Any) -> Path:
    Image.fromarray(pixels).save(path, **options)
    return path


def test_a_picture_of_the_right_size_becomes_the_formula(tmp_path: Path) -> None:
    for seed, name in enumerate(("b.png", "a.png", "c.bmp")):
        save(tmp_path / name, picture(seed=seed))
    declared = how(mean=(0.5, 0.4, 0.3), standard_deviation=(0.2, 0.3, 0.4))
    samples = read_calibration(tmp_path, [image_input(3, 4, 6)], declared)
    pixels = np.stack([picture(seed=seed) for seed in (1, 0, 2)])
    expected = (pixels / 255 - [0.5, 0.4, 0.3]) / [0.2, 0.3, 0.4]
    found = samples.take(range(3)).arrays["image"]
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected.transpose(0, 3, 1, 2), rtol=1e-5, atol=1e-6)


def test_the_same_arrays_have_the_same_digest_from_images_and_from_npz(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    save(tmp_path / "images" / "a.png", picture())
    spec = image_input(4, 6, 3, datatype="UINT8")
    declared = how(layout="NHWC", formula="pixel")
    path = save_npz(tmp_path / "data.npz", image=picture()[np.newaxis])
    from_images = read_calibration(tmp_path / "images", [spec], declared)
    assert from_images.sha256 == read_calibration(path, [spec]).sha256
    assert from_images.sha256 == arrays_sha256({"image": picture()[np.newaxis]})


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"formula": "pixel"}, 200.0),
        ({"formula": "(pixel - mean) / standard_deviation", "mean": [100] * 3}, 100.0),
        ({"mean": [0.5] * 3, "standard_deviation": [0.5] * 3}, (200 / 255 - 0.5) / 0.5),
        ({}, 200 / 255),
    ],
)
def test_formulas(changes: dict[str, Any], expected: float) -> None:
    image = Image.new("RGB", (6, 4), (200, 200, 200))
    np.testing.assert_allclose(prepare_image(image, how(**changes), FP32), expected, rtol=1e-6)


def test_the_order_of_channels_and_the_layout() -> None:
    image = Image.new("RGB", (6, 4), (10, 20, 30))
    reverse = prepare_image(image, how(formula="pixel", channels=RGB[::-1], layout="NHWC"), FP32)
    assert reverse.shape == (4, 6, 3)
    assert reverse[0, 0].tolist() == [30, 20, 10]
    assert prepare_image(image, how(formula="pixel"), FP32)[:, 0, 0].tolist() == [10, 20, 30]
    gray = prepare_image(image, how(formula="pixel", channels=("gray",)), FP32)
    assert gray.shape == (1, 4, 6)
    assert gray[0, 0, 0] == 18  # ITU-R 601-2 luma


def halves(width: int, height: int) -> Image.Image:
    """Black on the left, white on the right."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[:, width // 2 :] = 255
    return Image.fromarray(pixels)


def test_stretching_takes_all_of_the_picture() -> None:
    found = prepare_image(halves(120, 20), how(formula="pixel", interpolation="box"), FP32)
    assert found[0, 0].tolist() == [0, 0, 0, 255, 255, 255]


def test_covering_takes_the_middle() -> None:
    """Three times as wide as the frame: what stands out on both sides is lost."""
    pixels = np.zeros((40, 180, 3), np.uint8)
    pixels[:, 60:120] = 255
    found = prepare_image(Image.fromarray(pixels), how(formula="pixel", resize="cover"), FP32)
    assert found[:, :, 1:-1].min() == 255
    assert found.min() > 200


def test_covering_by_a_shorter_side_first_cuts_closer() -> None:
    """As ImageNet's 256 and 224: the border is left out."""
    pixels = np.zeros((40, 60, 3), np.uint8)
    pixels[10:30, 15:45] = 255
    declared = how(formula="pixel", resize="cover", shorter_side_px=8, interpolation="box")
    found = prepare_image(Image.fromarray(pixels), declared, FP32)
    assert found.min() == 255


@pytest.mark.parametrize(("anchor", "rows"), [("centre", [7, 255, 255, 7]), ("top_left", [255, 255, 7, 7])])
def test_containing_fills_the_rest(anchor: str, rows: list[int]) -> None:
    declared = how(formula="pixel", resize="contain", padding=7, anchor=anchor)
    white = Image.new("RGB", (60, 20), (255, 255, 255))
    assert prepare_image(white, declared, FP32)[0, :, 0].tolist() == rows


def test_a_camera_that_was_turned(tmp_path: Path) -> None:
    """EXIF orientation 6: the picture is turned by a quarter to the right."""
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / "turned.jpg"
    halves(16, 8).save(path, exif=exif, quality=95)
    turned = np.asarray(load_image(path).convert("L"))
    assert turned.shape == (16, 8)
    assert turned[:6].max() < 60
    assert turned[-6:].min() > 200


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK"])
def test_pictures_of_other_modes(tmp_path: Path, mode: str) -> None:
    path = tmp_path / ("a.tiff" if mode == "CMYK" else "a.png")
    Image.new("RGB", (6, 4), (255, 255, 255)).convert(mode).save(path)
    assert (prepare_image(load_image(path), how(formula="pixel"), FP32) == 255).all()


def test_truth_lies_beside_the_images(tmp_path: Path) -> None:
    """In the order of their names."""
    for name in ("b.png", "a.png"):
        save(tmp_path / name, picture())
    save_npz(tmp_path / "truth.npz", labels=np.array([1, 0]))
    labelled = read_evaluation(tmp_path, [image_input(3, 4, 6)], how())
    np.testing.assert_array_equal(labelled.truth.arrays["labels"], [1, 0])
    assert read_calibration(tmp_path, [image_input(3, 4, 6)], how()).count == 2


def test_images_without_truth(tmp_path: Path) -> None:
    save(tmp_path / "a.png", picture())
    with pytest.raises(LabelsError, match="no array `labels`"):
        read_evaluation(tmp_path, [image_input(3, 4, 6)], how())


def test_memory_does_not_grow_with_the_number_of_images(tmp_path: Path) -> None:
    for index in range(160):
        save(tmp_path / f"{index:03}.png", picture(32, 32, seed=index))
    spec, declared = image_input(3, 32, 32), how(height_px=32, width_px=32)
    files = sorted(tmp_path.iterdir())
    peaks = []
    for count in (16, 160):
        samples = images_module.open_images(tmp_path, files[:count], [spec], declared)
        tracemalloc.start()
        assert samples.sha256
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.25 * peaks[0]


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"", "not an image"), (b"a text", "not an image"), (b"\x89PNG\r\n\x1a\n1234", "not an image|damaged")],
)
def test_files_that_are_no_images(tmp_path: Path, content: bytes, words: str) -> None:
    save(tmp_path / "a.png", picture())
    (tmp_path / "b.png").write_bytes(content)
    with pytest.raises(DataError, match=words) as caught:
        read_calibration(tmp_path, [image_input(3, 4, 6)], how())
    assert "b.png" in str(caught.value)


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_an_image_that_is_cut_short(tmp_path: Path, suffix: str) -> None:
    path = save(tmp_path / f"a{suffix}", picture(64, 64))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(DataError, match=f"a{suffix}: damaged"):
        read_calibration(tmp_path, [image_input(3, 4, 6)], how())


def test_a_picture_that_is_a_bomb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    save(tmp_path / "a.png", picture(16, 16))
    with pytest.raises(DataError, match="exceeds limit"):
        read_calibration(tmp_path, [image_input(3, 4, 6)], how())


def test_more_than_eight_bits(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((4, 6), np.uint16)).save(tmp_path / "a.png")
    with pytest.raises(DataError, match="more than 8 bits"):
        read_calibration(tmp_path, [image_input(3, 4, 6)], how())


@pytest.mark.parametrize(
    ("spec", "changes", "words"),
    [
        (image_input(3, 4, 5), {}, r"makes NCHW \[3, 4, 6\], `image` takes \[3, 4, 5\]"),
        (image_input(3, 4, 6), {"layout": "NHWC"}, r"makes NHWC \[4, 6, 3\]"),
        (image_input(3, 4), {}, r"takes \[3, 4\]"),
        (image_input(3, 4, 6, datatype="UINT8"), {}, "its formula must be `pixel`"),
        (image_input(3, 4, 6), {"input": "picture"}, "describes `picture`, the model has `image`"),
    ],
)
def test_descriptions_that_do_not_fit_the_model(
    tmp_path: Path, spec: TensorSpec, changes: dict[str, Any], words: str
) -> None:
    save(tmp_path / "a.png", picture())
    with pytest.raises(DataMismatchError, match=words):
        read_calibration(tmp_path, [spec], how(**changes))


def test_images_need_a_description(tmp_path: Path) -> None:
    save(tmp_path / "a.png", picture())
    with pytest.raises(ConfigError, match="preprocessing description of kind `image`"):
        read_calibration(tmp_path, [image_input(3, 4, 6)])


def test_images_cannot_fill_two_inputs(tmp_path: Path) -> None:
    save(tmp_path / "a.png", picture())
    other = TensorSpec(name="mask", datatype="FP32", shape=(-1, 1))
    with pytest.raises(BadInputError, match=r"fills one input, the model has `image`, `mask`"):
        read_calibration(tmp_path, [image_input(3, 4, 6), other], how())


def test_a_folder_of_two_kinds(tmp_path: Path) -> None:
    save(tmp_path / "a.png", picture())
    (tmp_path / "b.wav").write_bytes(b"")
    with pytest.raises(DataError, match="files of one kind are expected, found images and wav"):
        read_calibration(tmp_path, [image_input(3, 4, 6)], how())
