"""Fetch real models, make data for them, pack them with `--recipe auto`, and print what came of it."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from packhorse_host.cli.output import print_table
from real_models.catalogue import MODELS, RealModel, fetch
from real_models.sentences import make_sentences
from real_models.speech import make_speech
from real_models.text_lines import make_text_lines

CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "packhorse" / "real-models"
MAKERS: dict[str, Callable[[Path, Path], tuple[Path, list[str]]]] = {
    "ppocr-recognition": make_text_lines,
    "silero-vad": make_speech,
    "minilm": make_sentences,
}


def main() -> None:
    arguments = _arguments()
    results = {}
    for model in MODELS:
        if not arguments.model or model.name in arguments.model:
            print(f"▸ {model.name}: {model.distribution} {model.version}, {model.licence}", file=sys.stderr)
            results[model.name] = _packed(model, arguments.folder / model.name, arguments)
    rows = [_row(name, bundle) for name, bundles in results.items() for bundle in bundles]
    print_table(["MODEL", "PROFILE", "FP32", "PLAIN", "FOUND", "DROP (95 %)", "RECIPE", "INTEGER"], rows)
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2) + "\n")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/models", description=__doc__)
    parser.add_argument("--model", action="append", choices=[model.name for model in MODELS])
    parser.add_argument("--profile", action="append", help="raspberry-pi-5 and generic-x86_64 by default")
    parser.add_argument("--folder", type=Path, default=CACHE, help=f"where files are kept ({CACHE})")
    parser.add_argument("--search-seconds", type=float, default=120.0)
    parser.add_argument("--json", type=Path, help="write all that was found")
    return parser.parse_args()


def _packed(model: RealModel, folder: Path, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    folder.mkdir(parents=True, exist_ok=True)
    path, options = MAKERS[model.name](fetch(model, folder), folder)
    for profile in arguments.profile or ["raspberry-pi-5", "generic-x86_64"]:
        options += ["--profile", profile]
    command = [
        *(sys.executable, "-c", "from packhorse_host.cli.app import main; main()", "pack", str(path)),
        *("--name", model.name, "--version", model.version, "--metric", model.metric),
        *("--calibration", str(folder / "calibration.npz"), "--evaluation", str(folder / "evaluation.npz")),
        *("--search-seconds", str(arguments.search_seconds), "--output", str(folder / "bundles"), "--json"),
        *options,
    ]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    bundles: list[dict[str, Any]] = json.loads(done.stdout)
    return bundles


def _row(name: str, bundle: dict[str, Any]) -> list[str]:
    evidence, tried = bundle["evidence"], bundle["search"]["tried"]
    quality, plain = evidence["quality"], tried[1]["quality"] if len(tried) > 1 else None
    interval = quality["drop_ci95_points"]
    return [
        name,
        bundle["profile"],
        f"{quality['fp32']:.2f}",
        f"{plain['quantized']:.2f}" if plain else "does not work",
        f"{quality['quantized']:.2f}",
        f"{quality['drop_points']:.2f} ({interval['low']:.2f} to {interval['high']:.2f})",
        next(each["text"] for each in tried if each["chosen"]),
        f"{evidence['integer_kernels']} of {evidence['compute_kernels']}",
    ]


if __name__ == "__main__":
    main()
