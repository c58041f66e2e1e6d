"""Fake quantization around somebody else's training loop, by torchao (PT2E)."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from typing import Any, Final, TypeAlias

from packhorse_host.errors import BadInputError, EnvironmentFaultError
from packhorse_host.quantize.qat.scheme import Scheme

Module: TypeAlias = Any
"""A `torch.nn.Module`; torch is not installed where types are checked."""
Program: TypeAlias = Any
"""A `torch.export.ExportedProgram`."""

_DEFAULT: Final = Scheme()
_EPSILON: Final = 2.0**-12
"""Smallest scale, as XNNPACK wants it."""


def train_quantized(
    module: Module,
    examples: tuple[Any, ...],
    loop: Callable[[Module], None],
    scheme: Scheme = _DEFAULT,
) -> Program:
    """Train a network that rounds as a device does.

    Args:
        module: trained in floating point; it is not changed. What `loop` gets has its own weights.
        examples: one tensor for each input, of at least two samples, so that the batch can stay free.
        loop: trains what it is given in place; it may call `.train()` and `.eval()` on it as on any module.
            A tenth of the learning rate and of the epochs that training took is a good start, and so is
            `freeze_ranges` for the last of them.
        scheme: how the device rounds; see `scheme_for`.

    Returns:
        The quantized program: integer weights, Q/DQ pairs around what runs in integers, a batch of one.

    Raises:
        BadInputError: the network cannot be exported, or `examples` hold a single sample.
        EnvironmentFaultError: torch, torchao or ExecuTorch (its quantizer) is not installed.
    """
    torch, pt2e, quantize = _tools()
    if any(example.shape[0] < 2 for example in examples):
        raise BadInputError(
            "examples need at least two samples: a batch of one would be taken for a constant"
        )
    prepared = quantize.prepare_qat_pt2e(_exported(torch, module, examples), _quantizer(scheme))
    pt2e.allow_exported_model_train_eval(prepared)
    prepared.train()
    loop(prepared)
    prepared.eval()
    converted = quantize.convert_pt2e(prepared)
    return torch.export.export(converted, tuple(example[:1] for example in examples))


def freeze_ranges(module: Module) -> None:
    """Let the ranges of activations be from now on, while the weights still learn."""
    _, pt2e, _ = _tools()
    module.apply(pt2e.disable_observer)


def _tools() -> tuple[Any, Any, Any]:
    try:
        import torch
        from executorch.backends.xnnpack.quantizer import xnnpack_quantizer  # noqa: F401 (as well as torchao)
        from torchao.quantization import pt2e
        from torchao.quantization.pt2e import quantize_pt2e
    except ImportError as error:
        raise EnvironmentFaultError(
            f"training needs torch, torchao and executorch ({error}): pip install 'packhorse[qat]'"
        ) from error
    return torch, pt2e, quantize_pt2e


def _exported(torch: Any, module: Module, examples: tuple[Any, ...]) -> Module:
    batch = tuple({0: torch.export.Dim.AUTO} for _ in examples)
    own = copy.deepcopy(module).train()  # what is exported shares its weights
    try:
        return torch.export.export(own, examples, dynamic_shapes=batch).module()
    except Exception as error:  # whatever an exporter raises on a module that it cannot trace
        first = str(error).strip().splitlines() or [type(error).__name__]
        raise BadInputError(f"torch.export does not take the network: {first[0][:500]}") from error


def _quantizer(scheme: Scheme) -> Any:
    import torch
    from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
        XNNPACKQuantizer,
        get_symmetric_quantization_config,
    )
    from torchao.quantization.pt2e import FusedMovingAvgObsFakeQuantize

    configuration = get_symmetric_quantization_config(is_per_channel=scheme.per_channel, is_qat=True)
    unsigned = scheme.activation_type == "uint8"
    activations = dataclasses.replace(
        configuration.input_activation,
        dtype=torch.uint8 if unsigned else torch.int8,
        quant_min=0 if unsigned else -128,
        quant_max=255 if unsigned else 127,
        qscheme=torch.per_tensor_symmetric if scheme.symmetric_activations else torch.per_tensor_affine,
        observer_or_fake_quant_ctr=FusedMovingAvgObsFakeQuantize.with_args(eps=_EPSILON),
    )
    configuration = dataclasses.replace(
        configuration, input_activation=activations, output_activation=activations
    )
    return XNNPACKQuantizer().set_global(configuration)
