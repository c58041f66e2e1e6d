"""Train a small network with fake quantization: `make_trained.py FOLDER`, inside the tool environment."""

import sys
from pathlib import Path

import torch
from torch.nn import functional

from packhorse_host.quantize.qat import Scheme, freeze_ranges, save, train_quantized

folder = Path(sys.argv[1])
torch.manual_seed(0)
network = torch.nn.Sequential(
    torch.nn.Conv2d(1, 8, 3, padding=1, bias=False),
    torch.nn.BatchNorm2d(8),
    torch.nn.ReLU(),
    torch.nn.Dropout(0.1),
    torch.nn.AdaptiveAvgPool2d(1),
    torch.nn.Flatten(),
    torch.nn.Linear(8, 2),
)
images = torch.randn(64, 1, 8, 8)
images[::2] += 0.8
labels = (torch.arange(64) % 2).long()
before = {name: value.clone() for name, value in network.state_dict().items()}


def loop(module: torch.nn.Module) -> None:
    """A loop that switches modes, as people's loops do."""
    optimizer = torch.optim.Adam(module.parameters(), lr=0.05)
    for step in range(30):
        module.train()
        loss = functional.cross_entropy(module(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step == 25:
            freeze_ranges(module)
    module.eval()
    assert (module(images).argmax(1) == labels).float().mean() > 0.9


program = train_quantized(network, (images[:2],), loop, Scheme())
assert network.training
assert all(
    torch.equal(value, before[name]) for name, value in network.state_dict().items() if "weight" in name
)
for suffix in (".onnx", ".pt2", ".pte"):
    save(program, folder / f"trained{suffix}", ["image"], ["scores"])
