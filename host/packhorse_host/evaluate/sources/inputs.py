"""Which input of a model a file's content is for."""

from __future__ import annotations

from collections.abc import Sequence

from packhorse_agent.contract.manifest import TensorSpec
from packhorse_host.evaluate.errors import DataMismatchError


def one_input(inputs: Sequence[TensorSpec], name: str | None, where: str) -> TensorSpec:
    """The only input of a model.

    Raises:
        DataMismatchError: it has others, which such files hold nothing for, or goes by another name.
    """
    names = ", ".join(f"`{spec.name}`" for spec in inputs)
    if len(inputs) != 1:
        raise DataMismatchError(f"{where}: fills one input, the model has {names}; use .npz files instead")
    if name not in (None, inputs[0].name):
        raise DataMismatchError(f"{where}: the preprocessing describes `{name}`, the model has {names}")
    return inputs[0]
