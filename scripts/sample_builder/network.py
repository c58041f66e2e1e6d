"""The sample's network: a MobileNetV2 small enough for 28x28 grayscale images."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

CLASS_COUNT = 10
STEM_CHANNELS = 16
HEAD_CHANNELS = 128


@dataclass(frozen=True)
class Stage:
    """A run of inverted residual blocks with the same output width.

    The first block of a stage has the given stride, the others have stride 1.
    """

    expansion: int
    channels: int
    blocks: int
    stride: int


STAGES = (
    Stage(expansion=2, channels=16, blocks=1, stride=2),
    Stage(expansion=4, channels=16, blocks=2, stride=1),
    Stage(expansion=4, channels=24, blocks=4, stride=2),
)


class ConvUnit(nn.Module):
    """Convolution, batch normalisation and, unless `linear`, ReLU."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        kernel: int = 1,
        stride: int = 1,
        groups: int = 1,
        linear: bool = False,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
        self.norm: nn.Module = nn.BatchNorm2d(outputs)
        self.activation = nn.Identity() if linear else nn.ReLU()
        nn.init.kaiming_normal_(self.conv.weight, mode="fan_out")

    def forward(self, features: Tensor) -> Tensor:
        """Map [N, inputs, H, W] to [N, outputs, H / stride, W / stride]."""
        output: Tensor = self.activation(self.norm(self.conv(features)))
        return output

    def fold(self) -> None:
        """Fold the batch normalisation into the convolution; evaluation mode only."""
        if isinstance(self.norm, nn.BatchNorm2d):
            self.conv = fuse_conv_bn_eval(self.conv, self.norm)
            self.norm = nn.Identity()


class InvertedResidual(nn.Module):
    """Expand, filter each channel by itself, project back; add the input where shapes allow.

    Source: Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks", 2018,
    section 3.3, with ReLU in place of ReLU6.
    """

    def __init__(self, inputs: int, outputs: int, expansion: int, stride: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        self.expand = ConvUnit(inputs, hidden)
        self.depthwise = ConvUnit(hidden, hidden, kernel=3, stride=stride, groups=hidden)
        self.project = ConvUnit(hidden, outputs, linear=True)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, features: Tensor) -> Tensor:
        """Map [N, inputs, H, W] to [N, outputs, H / stride, W / stride]."""
        output: Tensor = self.project(self.depthwise(self.expand(features)))
        return features + output if self.residual else output


class SampleNetwork(nn.Module):
    """Classifier of 28x28 grayscale images into ten classes."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = ConvUnit(1, STEM_CHANNELS, kernel=3)
        self.blocks = nn.ModuleList(_inverted_residuals())
        self.head = ConvUnit(STAGES[-1].channels, HEAD_CHANNELS)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.classifier = nn.Linear(HEAD_CHANNELS, CLASS_COUNT)

    def forward(self, image: Tensor) -> Tensor:
        """Map pixels [N, 1, 28, 28] in 0..1 to logits [N, 10]."""
        features = self.stem(image)
        for block in self.blocks:
            features = block(features)
        logits: Tensor = self.classifier(self.flatten(self.pool(self.head(features))))
        return logits

    def fold(self) -> None:
        """Switch to evaluation mode and fold every batch normalisation."""
        self.eval()
        for module in self.modules():
            if isinstance(module, ConvUnit):
                module.fold()


def parameter_count(network: nn.Module) -> int:
    """Count the trainable numbers of a network."""
    return sum(parameter.numel() for parameter in network.parameters())


def _inverted_residuals() -> list[InvertedResidual]:
    blocks = []
    inputs = STEM_CHANNELS
    for stage in STAGES:
        for index in range(stage.blocks):
            stride = stage.stride if index == 0 else 1
            blocks.append(InvertedResidual(inputs, stage.channels, stage.expansion, stride))
            inputs = stage.channels
    return blocks
