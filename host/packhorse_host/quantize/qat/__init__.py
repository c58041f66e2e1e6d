"""Quantization-aware training: fine-tune a network with the rounding that a device will do, then export it.

It runs where torch is (`packhorse[qat]`, or a tool environment); importing it needs no torch. ::

    from packhorse_host.quantize.qat import Scheme, save, train_quantized

    program = train_quantized(network, (torch.zeros(2, 3, 224, 224),), loop, Scheme())
    save(program, Path("model.onnx"), inputs=["image"], outputs=["logits"])

`packhorse pack --recipe qat_wi8_ai8 model.onnx` then packs the result as it is.
"""

from __future__ import annotations

from packhorse_host.quantize.qat.export import save
from packhorse_host.quantize.qat.scheme import Scheme, scheme_for
from packhorse_host.quantize.qat.train import freeze_ranges, train_quantized

__all__ = ["Scheme", "freeze_ranges", "save", "scheme_for", "train_quantized"]
