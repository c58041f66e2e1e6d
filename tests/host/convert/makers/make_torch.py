"""Write a model in every form that PyTorch has: `make_torch.py FOLDER`; run inside the tool environment."""

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))
from net import Net  # type: ignore[import-not-found,unused-ignore]

folder = Path(sys.argv[1])
net = Net().eval()
torch.save(net.state_dict(), folder / "weights.pth")
torch.save(net, folder / "whole.pth")
torch.export.save(torch.export.export(net, (torch.randn(1, 3, 16, 16),)), folder / "exported.pt2")
