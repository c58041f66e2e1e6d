"""Prints what becomes of the hard variants of the sample model."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

import onnx

from variants_builder.hard import make_hard
from variants_builder.measure import SAMPLE, measure, read_data


def main() -> None:
    """Measure each variant that is asked for; write the models where a folder is named."""
    parsed = _options().parse_args()
    data = read_data(parsed.every)
    scores = []
    print(f"{'spread':>6} {'seed':>4}  {'recipe':<28} {'top-1 %':>8} {'drop':>7} {'as fp32 %':>9}")
    for spread_log2 in parsed.spread:
        for seed in parsed.seed:
            if parsed.output:
                _write(parsed.output, spread_log2, seed)
            for score in measure(data, spread_log2, seed):
                scores.append(asdict(score))
                print(
                    f"{score.spread_log2:>6g} {score.seed:>4}  {score.recipe:<28} {score.top1_percent:>8.2f} "
                    f"{score.drop_points:>7.2f} {score.agreement_percent:>9.2f}",
                    flush=True,
                )
    if parsed.json:
        parsed.json.write_text(json.dumps(scores, indent=2) + "\n")


def _write(folder: Path, spread_log2: float, seed: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    model = make_hard(onnx.load(SAMPLE / "model.onnx"), spread_log2, seed)
    onnx.save(model, folder / f"hard-{spread_log2:g}-{seed}.onnx")


def _options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="scripts/variants", description=__doc__)
    parser.add_argument(
        "--spread", type=float, nargs="+", default=[0.0, 4.0, 6.0], metavar="R",
        help="channels are multiplied by 2^U(-R, R) (default: 0 4 6)",
    )  # fmt: skip
    parser.add_argument("--seed", type=int, nargs="+", default=[0, 1, 2], help="of the draw (default: 0 1 2)")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="one image of N only")
    parser.add_argument("--output", type=Path, help="a folder for the models")
    parser.add_argument("--json", type=Path, help="a file for the scores")
    return parser


if __name__ == "__main__":
    main()
