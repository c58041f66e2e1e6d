"""The part that runs where torch is: `python -m qat_builder.training MODEL.onnx DATA OUTPUT STEPS`."""

from __future__ import annotations

import sys
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

from packhorse_host.convert.tools.onnx_graph import load_onnx
from packhorse_host.quantize.qat import Scheme, freeze_ranges, save, train_quantized
from sample_builder.dataset import load_split
from sample_builder.training import augment

BATCH = 128
PEAK_LEARNING_RATE = 1e-3
FROZEN_SHARE = 0.2
"""Of the steps, the last ones, with ranges that stay."""


def main() -> None:
    """Train and write the program in each form."""
    model, data, output, steps = Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4])
    warnings.simplefilter("ignore")  # the exporters' warnings are for their own developers
    torch.manual_seed(1)
    network = load_onnx(str(model))
    for parameter in network.parameters():
        parameter.requires_grad_(True)
    split = load_split(data, "train")
    images, labels = torch.from_numpy(split.images.copy()), torch.from_numpy(split.labels)
    program = train_quantized(
        network, (torch.zeros(2, 1, 28, 28),), lambda module: _train(module, images, labels, steps), Scheme()
    )
    for suffix in (".onnx", ".pt2", ".pte"):
        save(program, output / f"qat{suffix}", ["image"], ["logits"])


def _train(module: Any, images: Any, labels: Any, steps: int) -> None:
    # Adam, since the channels of a hard variant differ by orders of magnitude and so do their gradients
    optimizer = torch.optim.Adam(module.parameters(), lr=PEAK_LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=PEAK_LEARNING_RATE, total_steps=steps)
    started_s = time.monotonic()
    for step in range(1, steps + 1):
        chosen = torch.randint(len(labels), (BATCH,))
        pixels = augment(images[chosen]).float().div_(255).unsqueeze(1)
        loss = functional.cross_entropy(module(pixels), labels[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step == int(steps * (1 - FROZEN_SHARE)):
            freeze_ranges(module)
        if step % 50 == 0:
            print(
                f"step {step}/{steps}  loss {loss.item():.3f}  {time.monotonic() - started_s:.0f} s",
                flush=True,
            )


if __name__ == "__main__":
    main()
