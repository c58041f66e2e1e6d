"""The model card: what the sample is, where it comes from and what it scores."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from sample_builder.dataset import CLASS_NAMES, Labels
from sample_builder.network import HEAD_CHANNELS, STAGES, STEM_CHANNELS
from sample_builder.training import MAX_SHIFT_PX, TrainingPlan

_TEMPLATE = Path(__file__).with_name("card_template.md")


@dataclass(frozen=True)
class Score:
    """What was predicted for a set of images, and what is right; int64 [N] each."""

    predicted: npt.NDArray[np.int64]
    labels: Labels

    @property
    def accuracy_percent(self) -> float:
        """Top-1 accuracy over all images."""
        return 100 * float((self.predicted == self.labels).mean())

    def of_class(self, label: int) -> Score:
        """The same for the images of one class."""
        chosen = self.labels == label
        return Score(self.predicted[chosen], self.labels[chosen])


@dataclass(frozen=True)
class CardFacts:
    """Everything on the card that is not the same for every training."""

    plan: TrainingPlan
    opset: int
    size_bytes: int
    trained_parameters: int
    stored_parameters: int
    calibration_count: int
    test: Score
    evaluation: Score


def render_card(facts: CardFacts) -> str:
    """Return the card as Markdown."""
    plan = facts.plan
    evaluation_count = len(facts.evaluation.labels)
    return _TEMPLATE.read_text(encoding="utf-8").format(
        opset=facts.opset,
        size_bytes=facts.size_bytes,
        trained_parameters=facts.trained_parameters,
        stored_parameters=facts.stored_parameters,
        calibration_count=facts.calibration_count,
        evaluation_count=evaluation_count,
        evaluation_percent=facts.evaluation.accuracy_percent,
        resolution=100 / evaluation_count,
        test_count=len(facts.test.labels),
        test_percent=facts.test.accuracy_percent,
        per_class="\n".join(_class_rows(facts.test)),
        architecture="\n".join(_layer_rows()),
        epochs=plan.epochs,
        batch_size=plan.batch_size,
        momentum=plan.momentum,
        weight_decay=plan.weight_decay,
        peak_learning_rate=plan.peak_learning_rate,
        shift=MAX_SHIFT_PX,
        threads=plan.threads,
    )


def _class_rows(test: Score) -> list[str]:
    return [
        f"| {name} | {test.of_class(label).accuracy_percent:.1f} % |"
        for label, name in enumerate(CLASS_NAMES)
    ]


def _layer_rows() -> list[str]:
    side_px = 28
    rows = [f"| convolution 3x3 | {STEM_CHANNELS} | | 1 | 1 | {side_px}x{side_px} |"]
    for stage in STAGES:
        side_px //= stage.stride
        rows.append(
            f"| inverted residual | {stage.channels} | {stage.expansion} | {stage.blocks}"
            f" | {stage.stride} | {side_px}x{side_px} |"
        )
    rows.append(f"| convolution 1x1 | {HEAD_CHANNELS} | | 1 | 1 | {side_px}x{side_px} |")
    rows.append("| global average pool, fully connected | 10 | | 1 | | |")
    return rows
