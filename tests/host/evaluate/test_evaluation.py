"""Models on evaluation sets: how far it is, what is opened, and what a bundle says about its inputs."""

from __future__ import annotations

import itertools
import json
import tracemalloc
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

from packhorse_agent.runtime.errors import ModelLoadError, RuntimeMissingError
from packhorse_host.bundle.pack import pack
from packhorse_host.bundle.request import PackRequest
from packhorse_host.errors import ConfigError
from packhorse_host.evaluate.errors import DataMismatchError, LabelsError, OutputsError
from packhorse_host.evaluate.evaluation import Evaluation, evaluate, open_subject
from packhorse_host.evaluate.metrics.classification import Top1
from packhorse_host.evaluate.metrics.frames import Auc
from packhorse_host.evaluate.metrics.free import OutputSqnr
from tests.host.float_models import SIDE, cnn, decisions, images, profile, save, save_npz

DESCRIPTION = {"layout": "NCHW", "channels": ["gray"], "height_px": SIDE, "width_px": SIDE}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(cnn(), tmp_path_factory.mktemp("model") / "model.onnx")


def labelled(path: Path, count: int) -> Path:
    data = images(count, seed=4)
    return save_npz(path, image=data, labels=decisions(cnn(), data))


def quiet(model: Path, other: Path | None, data: Path) -> Evaluation:
    return evaluate(model, other, data, Top1(), None, lambda text: None)


def test_long_work_says_how_far_it_is(model: Path, tmp_path: Path) -> None:
    """Not after each batch: every two seconds."""
    said: list[str] = []
    seconds = itertools.count()
    data = labelled(tmp_path / "data.npz", 200)
    evaluate(model, model, data, Top1(), None, said.append, lambda: float(next(seconds)))
    far = [text for text in said if " of 200 samples" in text]
    assert far
    assert len(far) < 7
    assert said[0] == "reading data.npz"
    assert said[-1] == "comparing"


def test_a_model_loses_nothing_against_itself(model: Path, tmp_path: Path) -> None:
    quality = quiet(model, model, labelled(tmp_path / "data.npz", 50)).quality
    assert quality is not None
    interval = quality.drop_ci95_points
    assert (quality.fp32, quality.drop_points, interval.low, interval.high) == (100, 0, 0, 0)


def test_models_that_take_one_sample_go_with_those_that_take_any(model: Path, tmp_path: Path) -> None:
    single = save(cnn(batch=1), tmp_path / "single.onnx")
    quality = quiet(model, single, labelled(tmp_path / "data.npz", 9)).quality
    assert quality is not None
    assert quality.agreement_percent == 100


def test_models_that_take_different_batches(tmp_path: Path) -> None:
    two, three = (save(cnn(batch=batch), tmp_path / f"{batch}.onnx") for batch in (2, 3))
    with pytest.raises(DataMismatchError, match="batches of 2 and 3 samples"):
        quiet(two, three, labelled(tmp_path / "data.npz", 9))


def test_truth_that_does_not_suit_is_found_before_a_model_runs(model: Path, tmp_path: Path) -> None:
    said: list[str] = []
    data = save_npz(tmp_path / "data.npz", image=images(4), labels=np.ones(4, np.int64))
    with pytest.raises(LabelsError, match="frames of both kinds"):
        evaluate(model, None, data, Auc(), None, said.append)
    assert not any("running" in text for text in said)


def test_one_model_has_nothing_to_compare_with(model: Path, tmp_path: Path) -> None:
    with pytest.raises(OutputsError, match="compares with the float model"):
        evaluate(model, None, labelled(tmp_path / "data.npz", 4), OutputSqnr(), None, lambda text: None)


def test_a_bundle_says_how_images_become_its_inputs(model: Path, tmp_path: Path) -> None:
    """The same pictures from a folder and from an archive: the same digest, the same scores."""
    pixels = np.random.default_rng(0).integers(0, 256, (12, SIDE, SIDE)).astype(np.uint8)
    arrays = (pixels[:, np.newaxis] / np.float32(255)).astype(np.float32)
    labels = decisions(cnn(), arrays)
    folder = tmp_path / "images"
    folder.mkdir()
    for index, picture in enumerate(pixels):
        Image.fromarray(picture).save(folder / f"{index:02}.png")
    save_npz(folder / "truth.npz", labels=labels)
    archive = save_npz(tmp_path / "data.npz", image=arrays, labels=labels)
    description = tmp_path / "preprocessing.json"
    description.write_text(json.dumps(DESCRIPTION))
    request = PackRequest(
        model, "net", "1", (profile(),), "fp32", evaluation=folder, preprocessing=description,
        output=tmp_path / "bundles",
    )  # fmt: skip
    (bundle,) = pack(request, lambda text: None)
    from_images, from_archive = (quiet(model, bundle.folder, data) for data in (folder, archive))
    assert from_images == from_archive
    assert from_images.quality is not None
    assert from_images.quality.fp32 == 100
    assert bundle.manifest.evidence.quality is not None
    assert bundle.manifest.evidence.quality.dataset_sha256 == from_images.dataset_sha256
    with pytest.raises(ConfigError, match="need a preprocessing description"):
        quiet(model, None, folder)


def test_memory_does_not_grow_with_the_outputs(tmp_path: Path) -> None:
    """A raw output of 1 MiB a sample is gone when it is scored."""
    spread = onnx.helper.make_node("Expand", ["logits", "shape"], ["wide"])
    source = cnn()
    source.graph.node.append(spread)
    shape = onnx.numpy_helper.from_array(np.array([1 << 16, 1, 4], np.int64), "shape")
    source.graph.initializer.append(shape)
    turned = onnx.helper.make_node("Transpose", ["wide"], ["head"], perm=[1, 2, 0])
    source.graph.node.append(turned)
    head = onnx.helper.make_tensor_value_info("head", onnx.TensorProto.FLOAT, ["batch", 4, 1 << 16])
    source.graph.output.append(head)
    model = save(source, tmp_path / "wide.onnx")
    peaks = []
    for count in (32, 96):
        data = labelled(tmp_path / f"{count}.npz", count)
        tracemalloc.start()
        evaluate(model, None, data, Top1(output="logits"), None, lambda text: None)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.25 * peaks[0]


def test_the_suffix_tells_the_runtime(tmp_path: Path) -> None:
    """Which is not installed, or does not take the file."""
    path = tmp_path / "model.pte"
    path.write_bytes(b"x")
    with pytest.raises((RuntimeMissingError, ModelLoadError), match=r"(?i)executorch"):
        open_subject(path)
