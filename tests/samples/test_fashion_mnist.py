"""The sample that ships: complete, small, and as accurate as its card says."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

SAMPLE = Path(__file__).parents[2] / "samples" / "fashion-mnist"
MODEL = SAMPLE / "model.onnx"
MODEL_MAX_BYTES = 300_000
MIN_ACCURACY_PERCENT = 91.0
MAX_INT8_DROP_POINTS = 1.0

Images = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]


class Reader(CalibrationDataReader):  # type: ignore[misc]
    """Feeds calibration images one at a time."""

    def __init__(self, images: Images) -> None:
        self._feeds = iter([{"image": image[np.newaxis]} for image in images])

    def get_next(self) -> dict[str, Images] | None:
        return next(self._feeds, None)


def load(name: str) -> dict[str, npt.NDArray[Any]]:
    with np.load(SAMPLE / name, allow_pickle=False) as archive:
        return dict(archive)


@pytest.fixture(scope="module")
def evaluation() -> tuple[Images, Labels]:
    arrays = load("evaluation.npz")
    return arrays["image"], arrays["labels"]


def accuracy_percent(model: Path, evaluation: tuple[Images, Labels]) -> float:
    images, labels = evaluation
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    logits = np.concatenate([session.run(["logits"], {"image": part})[0] for part in np.split(images, 10)])
    return 100 * float((logits.argmax(axis=1) == labels).mean())


def test_model_is_one_small_file() -> None:
    """The whole model is in model.onnx: no weights in a file beside it."""
    assert MODEL.stat().st_size < MODEL_MAX_BYTES
    tensors = onnx.load(MODEL, load_external_data=False).graph.initializer
    assert all(tensor.data_location == onnx.TensorProto.DEFAULT for tensor in tensors)


def test_model_is_valid_and_batch_normalisation_is_folded() -> None:
    """Quantizers see plain convolutions, and the opset has per-channel DequantizeLinear."""
    model = onnx.load(MODEL)
    onnx.checker.check_model(model, full_check=True)
    operators = {node.op_type for node in model.graph.node}
    assert operators == {"Conv", "Relu", "Add", "GlobalAveragePool", "Flatten", "Gemm"}
    assert model.opset_import[0].version >= 13


def test_model_holds_nothing_of_the_machine_that_wrote_it() -> None:
    """No path, no source line, no time."""
    model = onnx.load(MODEL)
    assert not model.doc_string
    assert not model.metadata_props
    assert not any(node.doc_string or node.metadata_props for node in model.graph.node)


def test_model_has_a_named_batch_axis() -> None:
    """`image` [batch, 1, 28, 28] in, `logits` [batch, 10] out."""
    session = onnxruntime.InferenceSession(MODEL, providers=["CPUExecutionProvider"])
    (image,), (logits,) = session.get_inputs(), session.get_outputs()
    assert (image.name, image.type, image.shape) == ("image", "tensor(float)", ["batch", 1, 28, 28])
    assert (logits.name, logits.type, logits.shape) == ("logits", "tensor(float)", ["batch", 10])


@pytest.mark.parametrize("count", [1, 3])
def test_a_sample_scores_alike_alone_and_in_a_batch(count: int, evaluation: tuple[Images, Labels]) -> None:
    """The batch axis is dynamic and samples do not touch each other."""
    images = evaluation[0][:count]
    session = onnxruntime.InferenceSession(MODEL, providers=["CPUExecutionProvider"])
    (together,) = session.run(None, {"image": images})
    alone = [session.run(None, {"image": image[np.newaxis]})[0][0] for image in images]
    np.testing.assert_allclose(together, alone, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("name", "count"), [("calibration.npz", 256), ("evaluation.npz", 2000)])
def test_images_are_model_inputs(name: str, count: int) -> None:
    """float32 [count, 1, 28, 28], every value a pixel / 255."""
    image = load(name)["image"]
    assert image.dtype == np.float32
    assert image.shape == (count, 1, 28, 28)
    pixels = np.rint(image * 255)
    assert (pixels.min(), pixels.max()) == (0, 255)
    np.testing.assert_array_equal(image, pixels.astype(np.float32) / np.float32(255))


def test_data_files_hold_nothing_else() -> None:
    """One array per model input, and labels for evaluation only."""
    assert load("calibration.npz").keys() == {"image"}
    assert load("evaluation.npz").keys() == {"image", "labels"}


def test_evaluation_classes_are_balanced(evaluation: tuple[Images, Labels]) -> None:
    """200 images of each class, with int64 labels."""
    labels = evaluation[1]
    assert labels.dtype == np.int64
    assert np.bincount(labels).tolist() == [200] * 10


def test_no_evaluation_image_is_a_calibration_image(evaluation: tuple[Images, Labels]) -> None:
    """Calibration comes from the training split, evaluation from the test split."""
    calibration = {image.tobytes() for image in load("calibration.npz")["image"]}
    assert not calibration & {image.tobytes() for image in evaluation[0]}


def test_labels_name_the_ten_logits() -> None:
    """One name a line, all different."""
    names = (SAMPLE / "labels.txt").read_text(encoding="utf-8").splitlines()
    assert len(names) == len(set(names)) == 10
    assert all(names)


def test_preprocessing_describes_the_model_input() -> None:
    """Its names and sizes are those of the model."""
    described = json.loads((SAMPLE / "preprocessing.json").read_text(encoding="utf-8"))
    assert described["input"] == "image"
    assert (described["height_px"], described["width_px"]) == (28, 28)
    assert (described["mean"], described["standard_deviation"]) == ([0.0], [1.0])


def test_card_score_is_the_measured_score(evaluation: tuple[Images, Labels]) -> None:
    """At least 91 % on evaluation.npz, and exactly what the card says to its last digit."""
    card = (SAMPLE / "MODEL_CARD.md").read_text(encoding="utf-8")
    stated = re.search(r"^\| `evaluation\.npz` \| 2,000 \| ([\d.]+) % \|$", card, re.MULTILINE)
    assert stated is not None
    measured = accuracy_percent(MODEL, evaluation)
    assert measured >= MIN_ACCURACY_PERCENT
    assert float(stated[1]) == pytest.approx(measured, abs=0.005)


def test_card_states_the_accuracy_on_the_whole_test_split() -> None:
    """All 10,000 test images, at least 91 %."""
    card = (SAMPLE / "MODEL_CARD.md").read_text(encoding="utf-8")
    stated = re.search(r"^\| test split \| 10,000 \| ([\d.]+) % \|$", card, re.MULTILINE)
    assert stated is not None
    assert float(stated[1]) >= MIN_ACCURACY_PERCENT


def test_calibration_images_suffice_for_int8(tmp_path: Path, evaluation: tuple[Images, Labels]) -> None:
    """Plain static quantization with the 256 images keeps the accuracy within one point."""
    quantized = tmp_path / "int8.onnx"
    quantize_static(
        MODEL,
        quantized,
        Reader(load("calibration.npz")["image"]),
        quant_format=QuantFormat.QDQ,
        activation_type=QuantType.QInt8,
        weight_type=QuantType.QInt8,
        per_channel=True,
    )
    drop_points = accuracy_percent(MODEL, evaluation) - accuracy_percent(quantized, evaluation)
    assert drop_points <= MAX_INT8_DROP_POINTS
