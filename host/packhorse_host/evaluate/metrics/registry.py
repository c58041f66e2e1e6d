"""From the name of a metric to the metric."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from types import MappingProxyType
from typing import Final, get_args

from packhorse_agent.contract.manifest import BuiltInMetric
from packhorse_agent.toml_files import nearest
from packhorse_host.errors import BadInputError, ConfigError
from packhorse_host.evaluate.metrics import own
from packhorse_host.evaluate.metrics.base import Metric, WeightedMetric
from packhorse_host.evaluate.metrics.classification import Top1, Top5
from packhorse_host.evaluate.metrics.detection import Ap50, Ap75, Decoder
from packhorse_host.evaluate.metrics.embeddings import EmbeddingCosine, LinearProbe
from packhorse_host.evaluate.metrics.frames import Auc, FrameAccuracy
from packhorse_host.evaluate.metrics.free import OutputCosine, OutputSqnr
from packhorse_host.evaluate.metrics.text import Alphabet, CharacterErrors, ExactMatch

BUILT_IN: Final = MappingProxyType(
    {
        "top1_percent": Top1,
        "top5_percent": Top5,
        "ap50_percent": Ap50,
        "ap75_percent": Ap75,
        "exact_match_percent": ExactMatch,
        "cer_percent": CharacterErrors,
        "cosine_percent": EmbeddingCosine,
        "linear_probe_percent": LinearProbe,
        "frame_accuracy_percent": FrameAccuracy,
        "auc_percent": Auc,
        "output_sqnr_db": OutputSqnr,
        "output_cosine_percent": OutputCosine,
    }
)

_TITLES: Final = MappingProxyType(
    {
        "top1_percent": "top-1",
        "top5_percent": "top-5",
        "ap50_percent": "AP50",
        "ap75_percent": "AP75",
        "exact_match_percent": "exact match",
        "cer_percent": "character error rate",
        "cosine_percent": "cosine to FP32",
        "linear_probe_percent": "linear probe",
        "frame_accuracy_percent": "frame accuracy",
        "auc_percent": "AUC",
        "output_sqnr_db": "SQNR to FP32, worst output",
        "output_cosine_percent": "cosine to FP32, worst output",
    }
)
_CHARSET_MAX_BYTES: Final = 1024 * 1024


@dataclass(frozen=True)
class MetricOptions:
    """What some metrics want to know; a metric refuses what it does not."""

    output: str | None = None
    """The output that is scored; by default the first."""
    threshold: float | None = None
    """From where on a frame is a yes; 0.5 by default."""
    alphabet: Alphabet | None = None
    decoder: Decoder | None = None


def load_metric(name: str, options: MetricOptions = MetricOptions()) -> Metric:
    """The metric called `name`: one of `BUILT_IN`, an entry point's name, or `package.module:attribute`.

    Raises:
        ConfigError: there is none of this name, or an option that it does not take or lacks.
        OwnMetricError: an own metric does not load.
    """
    kind = BUILT_IN.get(name)
    given = {field.name: getattr(options, field.name) for field in fields(options)}
    given = {key: value for key, value in given.items() if value is not None}
    if kind is not None:
        return _built_in(name, kind, given)
    if given:
        raise ConfigError(f"the own metric {name} takes no option, found {', '.join(given)}")
    reference = own.installed(own.METRICS_GROUP).get(name, name)
    if not own.is_reference(reference):
        known = [*get_args(BuiltInMetric), *own.installed(own.METRICS_GROUP)]
        hint = nearest(name, known) or f"; there are {', '.join(known)}, or package.module:attribute"
        raise ConfigError(f'there is no metric "{name}"{hint}')
    return own.load_own_metric(reference)


def metric_title(name: str) -> str:
    """A metric's name for people: `top-1`; an own metric goes by its reference."""
    return _TITLES.get(name, name)


def needed_truth(metric: Metric) -> tuple[str, ...]:
    """Arrays that the metric is known to need in an evaluation set."""
    return metric.needs if isinstance(metric, WeightedMetric) else ()


def read_alphabet(path: Path, blank: int = 0) -> Alphabet:
    """Read the characters of a CTC model: UTF-8, one a line, in the order of its classes, without the blank.

    A line of one space is the space.

    Raises:
        BadInputError: no such file, too large, not UTF-8, empty, or with an empty line.
    """
    try:
        with path.open("rb") as file:
            data = file.read(_CHARSET_MAX_BYTES + 1)
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadInputError(f"{path}: not UTF-8 text") from error
    except OSError as error:
        raise BadInputError(f"{path}: cannot be read: {error.strerror}") from error
    if len(data) > _CHARSET_MAX_BYTES:
        raise BadInputError(f"{path}: larger than {_CHARSET_MAX_BYTES} bytes")
    # not splitlines: it would split at characters that a text may hold
    lines = [line.removesuffix("\r") for line in text.removesuffix("\n").split("\n")]
    if "" in lines:
        raise BadInputError(f"{path}: line {lines.index('') + 1} is empty; one character a line is expected")
    if not -len(lines) - 1 <= blank <= len(lines):
        raise BadInputError(f"{path}: {len(lines)} characters and the blank are no class {blank}")
    return Alphabet(tuple(lines), blank)


def _built_in(name: str, kind: Callable[..., Metric], given: dict[str, object]) -> Metric:
    taken = {field.name for field in fields(kind)}  # type: ignore[arg-type]
    for option in given:
        if option not in taken:
            raise ConfigError(f"{name} takes no {option}; it takes {', '.join(sorted(taken)) or 'none'}")
    if "alphabet" in taken and "alphabet" not in given:
        raise ConfigError(f"{name} needs the characters of the model: give a charset file")
    return kind(**given)
