"""Train the sample model and write its folder. `scripts/train_sample` sets up what this needs."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from sample_builder.card import CardFacts, Score, render_card
from sample_builder.dataset import (
    CLASS_NAMES,
    IMAGE_SIDE_PX,
    DatasetError,
    Split,
    as_input,
    balanced,
    load_split,
    write_npz,
)
from sample_builder.network import SampleNetwork, parameter_count
from sample_builder.onnx_model import INPUT_NAME, OPSET, export, predict, stored_parameter_count
from sample_builder.training import TrainingPlan, train

CALIBRATION_COUNT = 256
EVALUATION_COUNT = 2000
PREPROCESSING = {
    "input": INPUT_NAME,
    "layout": "NCHW",
    "channels": ["gray"],
    "height_px": IMAGE_SIDE_PX,
    "width_px": IMAGE_SIDE_PX,
    "source_datatype": "uint8",
    "formula": "(pixel / 255 - mean) / standard_deviation",
    "mean": [0.0],
    "standard_deviation": [1.0],
    "background": "black",
}


def main() -> int:
    """Run the whole way from the data set's files to the sample's folder."""
    options = _options()
    try:
        options.output.mkdir(parents=True, exist_ok=True)
        training, test = load_split(options.data, "train"), load_split(options.data, "t10k")
    except (DatasetError, OSError) as error:
        print(f"train_sample: {error}", file=sys.stderr)
        return 1
    plan = TrainingPlan(epochs=options.epochs)
    network = train(training, plan)
    write_sample(options.output, network, plan, training, test)
    return 0


def write_sample(
    folder: Path, network: SampleNetwork, plan: TrainingPlan, training: Split, test: Split
) -> None:
    """Write the model, its data files and its card into a folder that exists.

    The card's scores are measured on the written model.
    """
    model = folder / "model.onnx"
    export(network, model)
    evaluation = balanced(test, EVALUATION_COUNT)
    calibration = as_input(balanced(training, CALIBRATION_COUNT).images)
    write_npz(folder / "calibration.npz", image=calibration)
    write_npz(folder / "evaluation.npz", image=as_input(evaluation.images), labels=evaluation.labels)
    _write_text(folder / "labels.txt", "".join(f"{name}\n" for name in CLASS_NAMES))
    _write_text(folder / "preprocessing.json", json.dumps(PREPROCESSING, indent=2) + "\n")
    facts = CardFacts(
        plan=plan,
        opset=OPSET,
        size_bytes=model.stat().st_size,
        trained_parameters=parameter_count(network),
        stored_parameters=stored_parameter_count(model),
        calibration_count=CALIBRATION_COUNT,
        test=Score(predict(model, test), test.labels),
        evaluation=Score(predict(model, evaluation), evaluation.labels),
    )
    _write_text(folder / "MODEL_CARD.md", render_card(facts))
    print(
        f"{folder}: {facts.test.accuracy_percent:.2f} % of {len(test):,} test images,"
        f" {facts.evaluation.accuracy_percent:.2f} % of {len(evaluation):,} in evaluation.npz"
    )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="train_sample", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with the data set's four files")
    parser.add_argument("--output", type=Path, required=True, help="folder to write")
    parser.add_argument("--epochs", type=int, default=TrainingPlan.epochs)
    return parser.parse_args()


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
