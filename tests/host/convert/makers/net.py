"""A small network in PyTorch; read inside the tool environment."""

import torch  # type: ignore[import-not-found,unused-ignore]


class Net(torch.nn.Module):  # type: ignore[misc,unused-ignore]
    """Convolution, batch normalisation, mean, linear: image [N, 3, 16, 16] to scores [N, 5]."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.conv = torch.nn.Conv2d(3, 8, 3, padding=1)
        self.norm = torch.nn.BatchNorm2d(8)
        self.dense = torch.nn.Linear(8, 5)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = self.dense(torch.relu(self.norm(self.conv(image))).mean((2, 3)))
        return scores
