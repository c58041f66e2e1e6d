"""Metrics and decoders that are not ours, behind a wall: what they do wrong is said in their name.

Named `package.module:attribute`, found on the path of Python modules, or by the name of an entry point in the
groups `packhorse.metrics` and `packhorse.decoders` of an installed package. The attribute of a metric is a
class that takes no arguments, or an instance; a decoder is a function.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Mapping
from importlib.metadata import entry_points
from typing import Any, Final, TypeVar

import numpy as np

from packhorse_agent.contract.manifest import MetricName, MetricUnit
from packhorse_agent.runtime.datatypes import Array, Tensors
from packhorse_host.errors import PackhorseError
from packhorse_host.evaluate.errors import OwnMetricError
from packhorse_host.evaluate.metrics.base import Decides, Floats, Metric, Truth
from packhorse_host.evaluate.metrics.detection import Decoder

METRICS_GROUP: Final = "packhorse.metrics"
DECODERS_GROUP: Final = "packhorse.decoders"
_REFERENCE: Final = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*", re.ASCII)
_REFERENCE_MAX: Final = 200
_UNIT: Final = re.compile(r"[a-z][a-z0-9_/]{0,15}", re.ASCII)
_MEMBERS: Final = ("unit", "higher_is_better", "per_sample", "aggregate")

Result = TypeVar("Result")


class Walled:
    """An own metric: its arrays are read-only, and what it raises becomes an `OwnMetricError`."""

    def __init__(self, name: MetricName, metric: Metric) -> None:
        self.name = name
        self.unit: MetricUnit = metric.unit
        self.higher_is_better = metric.higher_is_better
        self._metric = metric

    def per_sample(self, outputs: Tensors, truth: Truth) -> Floats:
        """See `Metric.per_sample`.

        Raises:
            OwnMetricError: the metric raises.
        """
        safe = Truth(truth.count, _sealed(truth.arrays), truth.reference and _sealed(truth.reference))
        return _guarded(f"{self.name}: per_sample", lambda: self._metric.per_sample(_sealed(outputs), safe))

    def aggregate(self, statistics: Floats) -> float:
        """See `Metric.aggregate`.

        Raises:
            OwnMetricError: the metric raises.
        """
        return _guarded(f"{self.name}: aggregate", lambda: self._metric.aggregate(statistics))


class WalledDeciding(Walled):
    """An own metric that knows decisions."""

    _metric: Any

    def decisions(self, outputs: Tensors) -> Array:
        """See `Decides.decisions`.

        Raises:
            OwnMetricError: the metric raises, or gives not one decision for each sample.
        """
        what = f"{self.name}: decisions"
        found = np.asarray(_guarded(what, lambda: self._metric.decisions(_sealed(outputs))))
        count = len(next(iter(outputs.values())))
        if found.shape != (count,):
            raise OwnMetricError(f"{what} must be one for each of {count} samples, found {list(found.shape)}")
        return found


def is_reference(text: str) -> bool:
    """Whether a text has the form `package.module:attribute`."""
    return len(text) <= _REFERENCE_MAX and _REFERENCE.fullmatch(text) is not None


def installed(group: str) -> dict[str, str]:
    """Names of entry points in a group → what they refer to."""
    return {entry.name: entry.value for entry in entry_points(group=group)}


def load_own_metric(reference: str) -> Metric:
    """The metric at `package.module:attribute`, behind its wall; it goes by this name in evidence.

    Raises:
        OwnMetricError: it does not import, or lacks what `Metric` asks for.
    """
    found = _load(reference)
    metric = _guarded(f"{reference}()", found) if isinstance(found, type) else found
    missing = [member for member in _MEMBERS if not hasattr(metric, member)]
    if missing:
        raise OwnMetricError(f"{reference} is no metric: it has no {', '.join(missing)}")
    if not isinstance(metric.unit, str) or not _UNIT.fullmatch(metric.unit):
        raise OwnMetricError(
            f"{reference}: unit must be a short word such as percent, found {metric.unit!r:.80}"
        )
    if not isinstance(metric.higher_is_better, bool):
        raise OwnMetricError(
            f"{reference}: higher_is_better must be True or False, found {metric.higher_is_better!r:.80}"
        )
    return (WalledDeciding if isinstance(metric, Decides) else Walled)(reference, metric)


def load_decoder(name: str) -> Decoder:
    """The decoder at `package.module:function`, or the installed one called `name`, behind a wall.

    Raises:
        OwnMetricError: there is none, or it does not import; what it returns raises this when it raises, or
            gives no arrays.
    """
    reference = installed(DECODERS_GROUP).get(name, name)
    if not is_reference(reference):
        raise OwnMetricError(f"there is no decoder `{name}`; package.module:function is expected")
    function = _load(reference)
    if not callable(function):
        raise OwnMetricError(f"{reference} is no function")

    def decode(outputs: Tensors) -> Tensors:
        found = _guarded(reference, lambda: function(_sealed(outputs)))
        if not isinstance(found, Mapping) or not found:
            raise OwnMetricError(f"{reference} must give arrays by name, found {type(found).__name__}")
        return {str(key): np.asarray(value) for key, value in found.items()}

    return decode


def _load(reference: str) -> Any:
    module, _, attribute = reference.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except ModuleNotFoundError as error:
        raise OwnMetricError(f"{reference}: {error}; is its folder in PYTHONPATH?") from error
    except AttributeError as error:
        raise OwnMetricError(f"{reference}: {module} has no `{attribute}`") from error
    except Exception as error:  # whatever a module that is not ours does while it is imported
        raise OwnMetricError(f"{reference}: {_text(error)}") from error


def _guarded(what: str, act: Callable[[], Result]) -> Result:
    try:
        return act()
    except PackhorseError:
        raise
    except Exception as error:  # whatever code that is not ours raises
        raise OwnMetricError(f"{what} raised {_text(error)}") from error


def _text(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:500]


def _sealed(arrays: Tensors) -> Tensors:
    sealed: dict[str, Array] = {}
    for name, array in arrays.items():
        view = array.view()
        view.setflags(write=False)
        sealed[name] = view
    return sealed
