"""Average precision: COCO's own tool agrees, and so do cases worked out by hand."""

from __future__ import annotations

import contextlib
import io
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from packhorse_agent.runtime.datatypes import Tensors
from packhorse_host.evaluate.errors import LabelsError, OutputsError
from packhorse_host.evaluate.metrics.base import Truth
from packhorse_host.evaluate.metrics.detection import Ap50, Ap75, AveragePrecision, overlap_matrix

SIDE = 100.0


def scored(metric: AveragePrecision, outputs: Tensors, truth: Truth) -> float:
    return metric.aggregate(metric.per_sample(outputs, truth))


def truth_of(boxes: list[list[list[float]]], classes: list[list[int]]) -> Truth:
    """Ragged lists, filled up."""
    most = max(len(each) for each in boxes)
    padded, kinds = np.zeros((len(boxes), most, 4)), np.zeros((len(boxes), most), np.int64)
    for index, (rows, labels) in enumerate(zip(boxes, classes, strict=True)):
        padded[index, : len(rows)], kinds[index, : len(rows)] = np.reshape(rows, (-1, 4)), labels
    counts = np.array([len(each) for each in boxes])
    return Truth(len(boxes), {"boxes": padded, "classes": kinds, "box_counts": counts})


def answers(boxes: Any, scores: Any, classes: Any) -> Tensors:
    return {
        "boxes": np.array(boxes, np.float32),
        "scores": np.array(scores, np.float32),
        "classes": np.array(classes, np.float32),
    }


BOX, FAR = [10.0, 10.0, 30.0, 30.0], [60.0, 60.0, 90.0, 90.0]


def test_the_right_box_scores_all() -> None:
    assert scored(Ap75(), answers([[BOX]], [[0.9]], [[0]]), truth_of([[BOX]], [[0]])) == 100


def test_a_box_of_another_class_scores_nothing() -> None:
    assert scored(Ap50(), answers([[BOX]], [[0.9]], [[1]]), truth_of([[BOX]], [[0]])) == 0


def test_a_box_that_drifts_is_lost_at_three_quarters_only() -> None:
    """Shifted by a fifth: two thirds overlap."""
    moved = answers([[[14, 10, 34, 30]]], [[0.9]], [[0]])
    assert overlap_matrix(moved["boxes"][0], np.array([BOX]))[0, 0] == pytest.approx(2 / 3)
    assert scored(Ap50(), moved, truth_of([[BOX]], [[0]])) == 100
    assert scored(Ap75(), moved, truth_of([[BOX]], [[0]])) == 0


def test_a_worked_example() -> None:
    """Right, wrong, right of two: precision 1 up to half the recall (51 points), then 2/3 (50)."""
    outputs = answers([[BOX, [0, 50, 20, 70], FAR]], [[0.9, 0.8, 0.7]], [[0, 0, 0]])
    expected = 100 * (51 + 50 * 2 / 3) / 101
    assert scored(Ap50(), outputs, truth_of([[BOX, FAR]], [[0, 0]])) == pytest.approx(expected)


def test_a_truth_is_found_once() -> None:
    """The second box on the same truth is wrong, and comes too late to matter."""
    twice = answers([[BOX, BOX]], [[0.9, 0.8]], [[0, 0]])
    assert scored(Ap50(), twice, truth_of([[BOX]], [[0]])) == pytest.approx(100)
    assert scored(Ap50(), twice, truth_of([[BOX, FAR]], [[0, 0]])) == pytest.approx(100 * 51 / 101)


def test_what_fills_up_does_not_count() -> None:
    filled = answers([[FAR, BOX, FAR]], [[0.0, 0.5, 0.9]], [[0, 0, -1]])
    assert scored(Ap50(), filled, truth_of([[BOX]], [[0]])) == 100


def test_nothing_found_scores_nothing() -> None:
    nothing = answers(np.zeros((1, 0, 4)), np.zeros((1, 0)), np.zeros((1, 0)))
    assert scored(Ap50(), nothing, truth_of([[BOX]], [[0]])) == 0


def test_a_decoder_makes_boxes_of_a_raw_head() -> None:
    def decode(outputs: Tensors) -> Tensors:
        raw = outputs["head"]
        return {"boxes": raw[..., :4], "scores": raw[..., 4], "classes": raw[..., 5]}

    head = np.array([[[*BOX, 0.9, 0]]])
    assert scored(Ap50(decoder=decode), {"head": head}, truth_of([[BOX]], [[0]])) == 100


def random_case(seed: int, images: int = 6, most: int = 9) -> tuple[Tensors, Truth]:
    """Boxes near the truth, some missing, some too many, some scores alike."""
    stream = np.random.default_rng(seed)
    boxes, classes = [], []
    found = np.zeros((images, 2 * most, 4)), np.zeros((images, 2 * most)), np.full((images, 2 * most), -1.0)
    for image in range(images):
        count = int(stream.integers(0, most)) if image else most
        corner = stream.uniform(0, SIDE - 25, (count, 2))
        rows = np.concatenate([corner, corner + stream.uniform(5, 25, (count, 2))], axis=1)
        boxes.append(rows.tolist())
        classes.append(stream.integers(0, 3, count).tolist())
        kept = np.flatnonzero(stream.random(count) < 0.8)
        near = rows[kept] + stream.normal(scale=1.2, size=(len(kept), 4))
        extra = stream.uniform(0, SIDE - 25, (2, 2))
        near = np.concatenate([near, np.concatenate([extra, extra + 20], axis=1)])
        found[0][image, : len(near)] = near
        found[1][image, : len(near)] = np.round(stream.uniform(0.05, 1, len(near)), 1)
        found[2][image, : len(near)] = [*np.array(classes[-1])[kept], *stream.integers(0, 3, 2)]
    return answers(*found), truth_of(boxes, classes)


def by_pycocotools(outputs: Tensors, truth: Truth, overlap: float) -> float:
    """The score that COCO's own tool gives."""
    coco_module = pytest.importorskip("pycocotools.coco", reason="pycocotools is not installed")
    from pycocotools.cocoeval import COCOeval

    used = np.arange(truth.arrays["boxes"].shape[1]) < truth.arrays["box_counts"][:, np.newaxis]
    annotations = [
        {"id": index + 1, "image_id": int(image), "category_id": int(truth.arrays["classes"][image, row]),
         "bbox": _xywh(truth.arrays["boxes"][image, row]), "area": 1e4, "iscrowd": 0}
        for index, (image, row) in enumerate(np.argwhere(used))
    ]  # fmt: skip
    real = (outputs["scores"] > 0) & (outputs["classes"] >= 0)
    results = [
        {"image_id": int(image), "category_id": int(outputs["classes"][image, row]),
         "bbox": _xywh(outputs["boxes"][image, row]), "score": float(outputs["scores"][image, row])}
        for image, row in np.argwhere(real)
    ]  # fmt: skip
    with contextlib.redirect_stdout(io.StringIO()):
        coco = coco_module.COCO()
        coco.dataset = {
            "info": {},
            "images": [{"id": image} for image in range(truth.count)],
            "categories": [{"id": each} for each in range(4)],
            "annotations": annotations,
        }
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(results), "bbox")
        evaluation.params.iouThrs = np.array([overlap])
        evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, 1e10]], ["all"]
        evaluation.params.maxDets = [100]
        evaluation.evaluate()
        evaluation.accumulate()
    precision = evaluation.eval["precision"]
    return 100 * float(precision[precision > -1].mean())


def _xywh(box: Any) -> list[float]:
    x1, y1, x2, y2 = (float(edge) for edge in box)
    return [x1, y1, x2 - x1, y2 - y1]


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("metric", [Ap50(), Ap75()], ids=["ap50", "ap75"])
def test_the_tool_of_coco_says_the_same(metric: AveragePrecision, seed: int) -> None:
    outputs, truth = random_case(seed)
    assert scored(metric, outputs, truth) == pytest.approx(by_pycocotools(outputs, truth, metric.overlap))


def test_a_hundred_boxes_of_a_class_count() -> None:
    """As in COCO's tool: the right one comes too late; of another class it still counts."""
    crowd = [[float(index % 9), 0.0, 5.0 + index % 9, 5.0] for index in range(100)]
    outputs = answers([[*crowd, BOX, FAR]], [[*np.linspace(1, 0.5, 100), 0.1, 0.1]], [[*[0] * 101, 1]])
    truth = truth_of([[BOX, FAR]], [[0, 1]])
    assert scored(Ap50(), outputs, truth) == 50
    assert by_pycocotools(outputs, truth, 0.5) == pytest.approx(50)


@given(st.integers(0, 1000))
@settings(max_examples=30)
def test_it_is_a_share(seed: int) -> None:
    """And asking for more overlap never finds more."""
    outputs, truth = random_case(seed, images=3, most=4)
    loose, tight = scored(Ap50(), outputs, truth), scored(Ap75(), outputs, truth)
    assert 0 <= tight <= loose + 1e-9 <= 100 + 1e-6


@given(st.integers(0, 1000), st.permutations(range(6)))
@settings(max_examples=30)
def test_the_order_of_images_changes_nothing(seed: int, order: list[int]) -> None:
    """As long as no two scores of different images are alike."""
    outputs, truth = random_case(seed)
    distinct = outputs["scores"] + np.arange(outputs["scores"].size).reshape(outputs["scores"].shape) / 1e4
    outputs = {**outputs, "scores": np.where(outputs["scores"] > 0, distinct, 0)}
    moved = {name: array[order] for name, array in outputs.items()}
    assert scored(Ap50(), moved, truth.take(order)) == pytest.approx(scored(Ap50(), outputs, truth))


def test_a_resample_is_scored_like_its_images() -> None:
    """Weights say the same as images that are there twice or not at all."""
    outputs, truth = random_case(3)
    drawn = [0, 0, 2, 4, 5, 5]
    counts = np.bincount(drawn, minlength=6).astype(np.float64)[np.newaxis]
    statistics = Ap50().per_sample(outputs, truth)
    assert Ap50().resampled(statistics, counts)[0] == pytest.approx(
        Ap50().aggregate(statistics[drawn]), abs=1
    )


def test_a_resample_without_a_true_box_has_no_score() -> None:
    outputs = answers([[BOX], [BOX]], [[0.9], [0.9]], [[0], [0]])
    statistics = Ap50().per_sample(outputs, truth_of([[BOX], []], [[0], []]))
    scores = Ap50().resampled(statistics, np.array([[0.0, 2.0], [1.0, 1.0]]))
    assert np.isnan(scores[0])
    assert scores[1] > 0


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"boxes": np.zeros((1, 2, 4))}, r"scores \[1, K\]"),
        ({"boxes": np.zeros((1, 1, 5))}, r"boxes \[1, K, 4\]"),
        (answers(np.zeros((2, 1, 4)), np.zeros((2, 1)), np.zeros((2, 1))), r"found \[2, 1, 4\]"),
        ({"scores": np.zeros((1, 1, 1))}, r"found \[1, 1, 4\], \[1, 1, 1\]"),
    ],
)
def test_outputs_that_are_no_boxes(change: Tensors, words: str) -> None:
    outputs = {**answers([[BOX]], [[0.9]], [[0]]), **change}
    with pytest.raises(OutputsError, match=words):
        scored(Ap50(), outputs, truth_of([[BOX]], [[0]]))


def test_a_raw_head_without_a_decoder() -> None:
    with pytest.raises(OutputsError, match="found head; a decoder turns others into these"):
        scored(Ap50(), {"head": np.zeros((1, 5, 85))}, truth_of([[BOX]], [[0]]))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"boxes": np.zeros((1, 1, 3))}, r"\[N, M, 4\]"),
        ({"classes": np.zeros((1, 2), np.int64)}, r"\[N, M\]"),
        ({"classes": np.zeros((1, 1))}, "integer"),
        ({"classes": np.array([[-1]])}, "a class from 0 on"),
        ({"box_counts": np.array([2])}, "0 to 1"),
        ({"box_counts": np.array([-1])}, "0 to 1"),
        ({"box_counts": np.array([0])}, "at least one true box"),
        ({"boxes": np.array([[[30, 10, 10, 30]]])}, r"x1 < x2"),
        ({"boxes": np.array([[[10, 10, np.nan, 30]]])}, r"in sample 0"),
    ],
)
def test_truth_that_is_no_boxes(change: Tensors, words: str) -> None:
    arrays = {**truth_of([[BOX]], [[0]]).arrays, **change}
    with pytest.raises(LabelsError, match=words):
        Ap50().check(Truth(1, arrays))


def test_truth_that_is_missing() -> None:
    with pytest.raises(LabelsError, match="needs the array `boxes` in the evaluation set; it has `labels`"):
        Ap50().check(Truth(1, {"labels": np.zeros(1)}))
