"""Seeded training of the sample's network on the CPU."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from sample_builder.dataset import IMAGE_SIDE_PX, Split
from sample_builder.network import SampleNetwork

MAX_SHIFT_PX = 2


@dataclass(frozen=True)
class TrainingPlan:
    """Everything that the trained weights depend on, besides the data and the libraries."""

    epochs: int = 12
    batch_size: int = 128
    peak_learning_rate: float = 0.2
    momentum: float = 0.9
    weight_decay: float = 1e-4
    seed: int = 1
    threads: int = 2


def train(split: Split, plan: TrainingPlan) -> SampleNetwork:
    """Train on all samples of the split and return the weights of the last step.

    No sample is held out and no step is preferred to another, so that nothing but the plan
    itself can have been fitted to the test images.
    """
    torch.manual_seed(plan.seed)
    torch.set_num_threads(plan.threads)
    torch.use_deterministic_algorithms(True)
    network: SampleNetwork = SampleNetwork().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.SGD(
        _parameter_groups(network, plan.weight_decay),
        lr=plan.peak_learning_rate,
        momentum=plan.momentum,
        nesterov=True,
    )
    steps_per_epoch = len(split) // plan.batch_size
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer,
        max_lr=plan.peak_learning_rate,
        total_steps=plan.epochs * steps_per_epoch,
    )
    started_s = time.monotonic()
    for epoch in range(1, plan.epochs + 1):
        loss = _train_epoch(network, optimizer, schedule, _batches(split, plan.batch_size))
        _report(epoch, plan.epochs, loss, time.monotonic() - started_s)
    network.eval()
    return network


def augment(pixels: Tensor) -> Tensor:
    """Mirror half of the images and shift each by up to two pixels either way.

    Takes and returns [N, 28, 28]; what moves in from outside is black.
    """
    count = len(pixels)
    mirrored = torch.where(torch.rand(count, 1, 1) < 0.5, pixels.flip(2), pixels)
    padded = functional.pad(mirrored, (MAX_SHIFT_PX,) * 4)
    offsets = torch.randint(2 * MAX_SHIFT_PX + 1, (2, count, 1))
    rows, columns = offsets + torch.arange(IMAGE_SIDE_PX)
    samples = torch.arange(count)[:, None, None]
    return padded[samples, rows[:, :, None], columns[:, None, :]]


def _parameter_groups(network: SampleNetwork, weight_decay: float) -> list[dict[str, object]]:
    kernels = [p for p in network.parameters() if p.ndim > 1]
    others = [p for p in network.parameters() if p.ndim == 1]
    return [
        {"params": kernels, "weight_decay": weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]


def _batches(split: Split, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
    images = torch.from_numpy(split.images.copy())
    labels = torch.from_numpy(split.labels)
    order = torch.randperm(len(split))
    for start in range(0, len(split) - batch_size + 1, batch_size):
        chosen = order[start : start + batch_size]
        pixels = augment(images[chosen]).float().div_(255)
        yield pixels.unsqueeze(1).contiguous(memory_format=torch.channels_last), labels[chosen]


def _train_epoch(
    network: SampleNetwork,
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
    batches: Iterator[tuple[Tensor, Tensor]],
) -> float:
    network.train()
    losses = []
    for image, labels in batches:
        optimizer.zero_grad()
        loss = functional.cross_entropy(network(image), labels)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    return sum(losses) / len(losses)


def _report(epoch: int, epochs: int, loss: float, elapsed_s: float) -> None:
    remaining_s = elapsed_s / epoch * (epochs - epoch)
    print(
        f"epoch {epoch}/{epochs}  loss {loss:.4f}  {elapsed_s:.0f} s, {remaining_s:.0f} s to go",
        file=sys.stderr,
        flush=True,
    )
