"""One model or two on an evaluation set: files or bundles, opened as a device opens them."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from packhorse_agent.contract.manifest import ArtifactRole, Quality, RuntimeRequirement, TensorSpec
from packhorse_agent.contract.profile import RuntimeName
from packhorse_agent.runtime.base import Session, describe_tensor, open_file, open_model
from packhorse_agent.runtime.datatypes import Array, Tensors
from packhorse_agent.trust.bundle_folder import verify_bundle_folder
from packhorse_host.errors import BadInputError, NotFoundError
from packhorse_host.evaluate.compare import (
    FLOAT_MODEL,
    QUANTIZED_MODEL,
    Score,
    check_truth,
    compare_gathered,
    score,
)
from packhorse_host.evaluate.errors import DataMismatchError
from packhorse_host.evaluate.gather import Gathered, Gatherer
from packhorse_host.evaluate.metrics.base import Metric
from packhorse_host.evaluate.metrics.free import Fidelity, FidelityTally
from packhorse_host.evaluate.metrics.registry import needed_truth
from packhorse_host.evaluate.read import read_evaluation, read_preprocessing
from packhorse_host.evaluate.runner import run_batches
from packhorse_host.evaluate.samples import LabelledSamples
from packhorse_host.evaluate.stand_in import runs_here

BATCH: Final = 32
"""Samples that run at once where the model leaves it free."""
SAY_EVERY_S: Final = 2.0
_RUNTIMES: Final[dict[str, RuntimeName]] = {
    ".onnx": "onnxruntime",
    ".tflite": "litert",
    ".pte": "executorch",
    ".ptl": "pytorch-mobile",
}

Announce = Callable[[str], None]
"""Says what is done next."""
Clock = Callable[[], float]
"""Seconds, monotonic."""


@dataclass(frozen=True)
class Subject:
    """A model that is evaluated."""

    path: Path
    session: Session
    preprocessing: Path | None
    """Of a bundle that has a description."""


@dataclass(frozen=True)
class Evaluation:
    """What one or two models reached."""

    samples: int
    dataset_sha256: str
    score: Score
    """Of the first model."""
    quality: Quality | None
    """Of both, the first one being FP32; None where there is one."""
    fidelity: tuple[Fidelity, ...]
    """Of the second model's outputs against the first one's; empty where there is one."""
    doubts: tuple[str, ...]
    """Why these figures may say little, for people."""


def open_subject(path: Path) -> Subject:
    """Open a model file by its suffix, or the model of a bundle folder, on the CPU.

    Raises:
        NotFoundError: there is nothing at `path`.
        BadInputError: neither a bundle nor a kind of file that a runtime is known for.
        UntrustedError: a bundle that is not what its manifest says.
        RuntimeMissingError: the runtime is not installed, or too old.
    """
    cores = len(os.sched_getaffinity(0))
    if path.is_dir():
        bundle = verify_bundle_folder(path)
        manifest = bundle.manifest
        files = {each.artifact.role: each.path for each in bundle.artifacts}
        requirement = runs_here(manifest.runtime).model_copy(update={"threads": cores})
        session = open_model(files[ArtifactRole.MODEL], requirement, manifest.inputs, manifest.outputs)
        return Subject(path, session, files.get(ArtifactRole.PREPROCESSING))
    if not path.exists():
        raise NotFoundError(f"{path}: there is no such model or bundle")
    runtime = _RUNTIMES.get(path.suffix.lower())
    if runtime is None:
        raise BadInputError(f"{path}: a bundle folder or one of {', '.join(_RUNTIMES)} is expected")
    requirement = RuntimeRequirement(name=runtime, minimum_version="0", threads=cores)
    return Subject(path, open_file(path, requirement), None)


def evaluate(
    model: Path,
    other: Path | None,
    data: Path,
    metric: Metric,
    preprocessing: Path | None,
    announce: Announce,
    clock: Clock = time.monotonic,
) -> Evaluation:
    """Score `model`, and `other` against it on the same samples.

    Args:
        model: a file or bundle; FP32 where there are two.
        other: the quantized one.
        data: see `packhorse_host.evaluate.read`.
        metric: see `packhorse_host.evaluate.metrics.registry`.
        preprocessing: how files become inputs; by default as a bundle among both says.
        announce: hears how far it is, now and then.
        clock: replaced in tests.

    Raises:
        BadInputError: models, data and metric do not belong together.
        EnvironmentFaultError: a runtime is missing or fails.
    """
    subjects = [open_subject(path) for path in (model, other) if path is not None]
    announce(f"reading {data.name}")
    inputs = subjects[0].session.inputs
    described = next((each.preprocessing for each in subjects if each.preprocessing), None)
    how = read_preprocessing(preprocessing or described, data)
    labelled = read_evaluation(data, inputs, how, needed_truth(metric))
    check_truth(metric, labelled.truth)
    gathered, tally = _run(subjects, labelled, metric, announce, clock)
    announce("comparing")
    quality = None
    if len(gathered) == 2:
        quality = compare_gathered(metric, gathered[0], gathered[1], labelled.sha256)
    return Evaluation(
        samples=labelled.samples.count,
        dataset_sha256=labelled.sha256,
        score=score(metric, gathered[0]),
        quality=quality,
        fidelity=tally.outputs(),
        doubts=tuple(labelled.doubts()),
    )


def _run(
    subjects: Sequence[Subject], labelled: LabelledSamples, metric: Metric, announce: Announce, clock: Clock
) -> tuple[list[Gathered], FidelityTally]:
    """Run all on the same batches, and keep what the metric wants of each."""
    like, count, tally = subjects[0].session, labelled.samples.count, FidelityTally()
    whose = (FLOAT_MODEL, QUANTIZED_MODEL) if len(subjects) == 2 else ("the model",)
    gatherers = [Gatherer(metric, labelled.truth, who) for who in whose]
    sessions = [_Renamed(subject.session, like, subject.path) for subject in subjects]
    names = ", ".join(subject.path.name for subject in subjects)
    announce(f"running {names} on {count} samples")
    done, said = 0, clock()
    for answers in run_batches(
        sessions, labelled.samples, _batch(subjects), [each.name for each in like.outputs]
    ):
        for gatherer, answer in zip(gatherers, answers, strict=True):
            gatherer.add(answer, answers[0] if len(answers) == 2 else None)
        for other in answers[1:]:
            tally.add(answers[0], other)
        done += len(next(iter(answers[0].values())))
        if clock() - said >= SAY_EVERY_S:
            said = clock()
            announce(f"running {names}: {done} of {count} samples")
    return [gatherer.done() for gatherer in gatherers], tally


def _batch(subjects: Sequence[Subject]) -> int:
    """How many samples all of them take at once."""
    fixed = {spec.shape[0] for each in subjects for spec in each.session.inputs if spec.shape} - {-1}
    if len(fixed) > 1:
        raise DataMismatchError(f"the models take batches of {' and '.join(map(str, sorted(fixed)))} samples")
    return min(fixed, default=BATCH)


class _Renamed:
    """A session whose tensors go by another model's names: those alike, else by their order."""

    def __init__(self, session: Session, like: Session, path: Path) -> None:
        self._session = session
        self._inputs = _names(like.inputs, session.inputs, path, "input")
        self._outputs = _names(like.outputs, session.outputs, path, "output")
        self.inputs, self.outputs = like.inputs, like.outputs
        self.provider, self.notes = session.provider, session.notes

    def run(self, inputs: Tensors) -> dict[str, Array]:
        """See `Session.run`."""
        results = self._session.run({self._inputs[name]: array for name, array in inputs.items()})
        return {name: np.asarray(results[own]) for name, own in self._outputs.items()}


def _names(
    expected: Sequence[TensorSpec], found: Sequence[TensorSpec], path: Path, kind: str
) -> dict[str, str]:
    """The other model's name of a tensor → this model's."""
    own = {spec.name: spec for spec in found}
    if {spec.name for spec in expected} == own.keys():
        pairs = [(spec, own[spec.name]) for spec in expected]
    elif len(expected) == len(found):
        pairs = list(zip(expected, found, strict=True))
    else:
        pairs = []
    if not pairs or any(one.datatype != two.datatype or not _alike(one, two) for one, two in pairs):
        raise DataMismatchError(
            f"{path}: its {kind}s are {_listed(found)}, those of the other model {_listed(expected)}"
        )
    return {one.name: two.name for one, two in pairs}


def _alike(one: TensorSpec, two: TensorSpec) -> bool:
    pairs = zip(one.shape[1:], two.shape[1:], strict=False)
    return len(one.shape) == len(two.shape) and all(-1 in pair or pair[0] == pair[1] for pair in pairs)


def _listed(specs: Sequence[TensorSpec]) -> str:
    return ", ".join(f"`{spec.name}` {describe_tensor(spec)}" for spec in specs)
