"""An exported program as a graph of `torch.nn` modules, which the quantizers of PyTorch Mobile know.

torch.export leaves calls of operators and loose weights; eager and FX quantization look for modules and for
Python's functions. Operators without an entry stay as they are, in floating point.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any

from .torch_program import attribute

PREFIX = "layer_"
"""A node's name → that of its module."""


def as_modules(program: Any) -> Any:
    """A `GraphModule` with the function of the program, in evaluation mode."""
    from torch import fx

    module = program.module()
    for node in list(module.graph.nodes):
        if node.op == "call_module" and node.target == "_guards_fn":  # quantizing would trace into it
            module.graph.erase_node(node)
        elif node.op == "call_function":
            _replace(module, node)
    module.graph.set_codegen(fx.graph.CodeGen())
    module.graph.eliminate_dead_code()
    return fx.GraphModule(module, module.graph).eval()


def _replace(module: Any, node: Any) -> None:
    name = str(node.target)
    function = _functions().get(name)
    if function is not None and not node.kwargs:
        node.target = function
        return
    maker = _MAKERS.get(name)
    if maker is None or node.kwargs:
        return
    layer = maker(module, node)
    if layer is None:
        return
    target = f"{PREFIX}{node.name}"
    module.add_submodule(target, layer.eval())
    with module.graph.inserting_before(node):
        call = module.graph.call_module(target, (node.args[0],))
    call.meta = dict(node.meta)
    node.replace_all_uses_with(call)
    module.graph.erase_node(node)


def _functions() -> Mapping[str, Any]:
    import torch

    return {
        "aten.add.Tensor": operator.add,
        "aten.add_.Tensor": operator.add,
        "aten.cat.default": torch.cat,
        "aten.flatten.using_ints": torch.flatten,
        "aten.mean.dim": torch.mean,
        "aten.mul.Tensor": operator.mul,
        "aten.reshape.default": torch.reshape,
        "aten.view.default": torch.reshape,
    }


def _argument(node: Any, index: int, default: Any) -> Any:
    return node.args[index] if len(node.args) > index and node.args[index] is not None else default


def _weights(module: Any, node: Any, *places: int) -> list[Any]:
    """Constants that the node takes at these places; None for one that is missing or computed."""
    found = [_argument(node, place, None) for place in places]
    return [attribute(module, value) if getattr(value, "op", "") == "get_attr" else None for value in found]


def _linear(module: Any, node: Any) -> Any:
    from torch import nn

    weight, bias = _weights(module, node, 1, 2)
    if weight is None:
        return None
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    return _filled(layer, weight, bias)


def _convolution(module: Any, node: Any) -> Any:
    from torch import nn

    weight, bias = _weights(module, node, 1, 2)
    padding = _argument(node, 4, [0])
    if weight is None or isinstance(padding, str):
        return None
    axes = weight.dim() - 2
    kind = nn.Conv1d if axes == 1 else nn.Conv2d
    groups = _argument(node, 6, 1)
    layer = kind(
        weight.shape[1] * groups,
        weight.shape[0],
        tuple(weight.shape[2:]),
        stride=_axes(node, 3, 1, axes),
        padding=_axes(node, 4, 0, axes),
        dilation=_axes(node, 5, 1, axes),
        groups=groups,
        bias=bias is not None,
    )
    return _filled(layer, weight, bias)


def _axes(node: Any, index: int, default: int, axes: int) -> tuple[int, ...]:
    given = list(_argument(node, index, [default]))
    return tuple(given * axes if len(given) == 1 else given)


def _filled(layer: Any, weight: Any, bias: Any) -> Any:
    layer.weight.data = weight.detach()
    if bias is not None:
        layer.bias.data = bias.detach()
    return layer


def _normalization(module: Any, node: Any) -> Any:
    from torch import nn

    weight, bias, mean, variance = _weights(module, node, 1, 2, 3, 4)
    value = node.args[0].meta.get("val")
    if any(tensor is None for tensor in (weight, bias, mean, variance)) or value is None or value.dim() != 4:
        return None
    layer = nn.BatchNorm2d(len(weight), eps=node.args[7])
    layer.running_mean, layer.running_var = mean, variance
    return _filled(layer, weight, bias)


def _clip(module: Any, node: Any) -> Any:
    from torch import nn

    low, high = _argument(node, 1, -1.0), _argument(node, 2, None if "clamp" in str(node.target) else 1.0)
    if (low, high) == (0, 6):
        return nn.ReLU6()
    if low is None or high is None or not isinstance(low, int | float):
        return None
    return nn.Hardtanh(float(low), float(high))


def _pool(module: Any, node: Any) -> Any:
    from torch import nn

    size = node.args[1]
    stride = _argument(node, 2, size) or size
    return nn.MaxPool2d(
        size, stride, _argument(node, 3, 0), _argument(node, 4, 1), ceil_mode=_argument(node, 5, False)
    )


def _made(name: str, *places: int) -> Callable[[Any, Any], Any]:
    def make(module: Any, node: Any) -> Any:
        from torch import nn

        return getattr(nn, name)(*(node.args[place] for place in places))

    return make


_MAKERS: Mapping[str, Callable[[Any, Any], Any]] = {
    "aten.adaptive_avg_pool2d.default": _made("AdaptiveAvgPool2d", 1),
    "aten.batch_norm.default": _normalization,
    "aten.clamp.default": _clip,
    "aten.conv1d.default": _convolution,
    "aten.conv2d.default": _convolution,
    "aten.hardswish.default": _made("Hardswish"),
    "aten.hardtanh.default": _clip,
    "aten.hardtanh_.default": _clip,
    "aten.linear.default": _linear,
    "aten.max_pool2d.default": _pool,
    "aten.relu.default": _made("ReLU"),
    "aten.relu_.default": _made("ReLU"),
    "aten.sigmoid.default": _made("Sigmoid"),
}
