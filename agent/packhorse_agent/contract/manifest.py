"""The manifest: the list that describes a bundle, with the evidence that it works.

It holds no time and no measured latency, so the same input gives the same bytes. Its SHA-256 is the
bundle's digest.
"""

from __future__ import annotations

from enum import Enum
from typing import Annotated, Literal

from pydantic import Field, StringConstraints, model_validator

from packhorse_agent.contract.base import FileName, Name, Sha256Hex, Version, WireDocument, canonical_json
from packhorse_agent.contract.chunks import index_sizes
from packhorse_agent.contract.limits import ARTIFACT_MAX_BYTES, ARTIFACTS_MAX
from packhorse_agent.contract.recipe_record import RecipeRecord

MANIFEST_FILE = "manifest.json"

Datatype = Literal[
    "BOOL",
    "UINT8",
    "UINT16",
    "UINT32",
    "UINT64",
    "INT8",
    "INT16",
    "INT32",
    "INT64",
    "FP16",
    "FP32",
    "FP64",
]
"""Tensor datatypes of the Open Inference Protocol."""


class ArtifactRole(str, Enum):
    """What an artifact is for."""

    MODEL = "model"
    GOLDEN = "golden"
    LABELS = "labels"
    PREPROCESSING = "preprocessing"


class Artifact(WireDocument):
    """One file inside a bundle, named by content."""

    role: ArtifactRole
    file: FileName
    sha256: Sha256Hex
    size_bytes: Annotated[int, Field(ge=1, le=ARTIFACT_MAX_BYTES)]
    chunk_index: tuple[Sha256Hex, ...] = ()
    """SHA-256 of each index level, lowest first; empty for at most one chunk (see `chunks`)."""

    @model_validator(mode="after")
    def _levels_fit_the_size(self) -> Artifact:
        expected = len(index_sizes(self.size_bytes))
        if len(self.chunk_index) != expected:
            raise ValueError(f"{self.file}: {len(self.chunk_index)} index levels, its size needs {expected}")
        return self


class TensorSpec(WireDocument):
    """An input or output of the model: name, Open Inference Protocol datatype, shape (-1: any length)."""

    name: Annotated[str, Field(min_length=1, max_length=256)]
    datatype: Datatype
    shape: tuple[Annotated[int, Field(ge=-1)], ...]


class RuntimeRequirement(WireDocument):
    """The runtime that runs the model artifact."""

    name: Literal["onnxruntime", "litert", "tflite-runtime", "executorch", "pytorch-mobile", "tensorrt"]
    minimum_version: str
    providers: tuple[str, ...] = ()
    """Accelerators in order of preference; empty: the runtime's CPU default."""
    threads: Annotated[int, Field(ge=1, le=256)] = 1


class ProbeLimits(WireDocument):
    """What the device's replay of the golden vectors must reach."""

    sqnr_min_db: float
    """Signal to quantization noise against FP32: the host's own figure less 3 dB."""
    agreement_min_percent: Annotated[float, Field(ge=0, le=100)]
    """Same arg max as FP32, counted on vectors with at least `decision_margin` between first and second."""
    decision_margin: Annotated[float, Field(ge=0)]
    vectors: Annotated[int, Field(ge=1)]
    classification: bool
    """False: outputs are free, only the SQNR counts."""


class Interval(WireDocument):
    """A two-sided 95 % confidence interval."""

    low: float
    high: float


BuiltInMetric = Literal[
    "top1_percent",
    "top5_percent",
    "ap50_percent",
    "ap75_percent",
    "exact_match_percent",
    "cer_percent",
    "cosine_percent",
    "linear_probe_percent",
    "frame_accuracy_percent",
    "auc_percent",
    "output_sqnr_db",
    "output_cosine_percent",
]
"""Metrics that every packer knows: classification, detection, text, embeddings, frames, free outputs."""

OwnMetric = Annotated[
    str,
    StringConstraints(
        pattern=r"^[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*:[A-Za-z_][A-Za-z0-9_]*$", max_length=200
    ),
]
"""A metric of the packing side's own, as Python finds it: `package.module:attribute`."""

MetricName = BuiltInMetric | OwnMetric

MetricUnit = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_/]{0,15}$")]
"""What scores are counted in: `percent`, `db`, or an own metric's unit."""


class Quality(WireDocument):
    """Paired comparison of FP32 and the quantized model on one data set."""

    metric: MetricName
    unit: MetricUnit = "percent"
    """Of the scores, the drop and its interval."""
    higher_is_better: bool = True
    dataset_sha256: Sha256Hex
    samples: Annotated[int, Field(ge=1)]
    fp32: float
    quantized: float
    drop_points: float
    """What is lost: `fp32 - quantized`, or the reverse where lower is better; negative when the quantized
    model is better."""
    drop_ci95_points: Interval
    agreement_percent: Annotated[float, Field(ge=0, le=100)] | None
    """Share of samples on which both models decide alike; None where the metric knows no decisions."""


class DataFreeCheck(WireDocument):
    """How closely a model that was calibrated on made-up inputs follows FP32."""

    inputs: Literal["evaluation", "synthesized"]
    """What both ran on: the evaluation set, or inputs made up like those of the calibration, but others."""
    samples: Annotated[int, Field(ge=1)]
    agreement_percent: Annotated[float, Field(ge=0, le=100)] | None
    """Share of samples on which both decide alike; None where outputs are no decisions."""
    sqnr_db: float | None
    """Of the worst output; None: there is no noise."""


class Evidence(WireDocument):
    """Measured quality that travels with the bundle."""

    quality: Quality | None
    """None: packed without an evaluation set."""
    max_drop_points: float | None
    overrides: tuple[str, ...] = ()
    """Rules that were overridden by name when it was packed."""
    sqnr_db: float | None
    """On the golden vectors, quantized against FP32; None for fp32 itself (no noise)."""
    size_fp32_bytes: int
    size_bytes: int
    integer_kernels: int
    compute_kernels: int
    """Convolutions, matrix products and the like in the graph that the runtime really runs, after fusion."""
    calibration_sha256: Sha256Hex | None
    calibration_samples: int
    source_sha256: Sha256Hex
    """The model file that was packed."""
    data_free: DataFreeCheck | None = None
    """None: calibrated on data that somebody gave, or not at all."""
    recipe_reason: Annotated[str, Field(max_length=1_000)] | None = None
    """Why a search took this recipe, in words without measured latencies; None: it was named by hand."""


class Manifest(WireDocument):
    """One model, one version, one profile, one recipe, with its evidence."""

    format: Literal[1] = 1
    model: Name
    version: Version
    profile: Name
    recipe: RecipeRecord
    runtime: RuntimeRequirement
    inputs: Annotated[tuple[TensorSpec, ...], Field(min_length=1)]
    outputs: Annotated[tuple[TensorSpec, ...], Field(min_length=1)]
    artifacts: Annotated[tuple[Artifact, ...], Field(min_length=1, max_length=ARTIFACTS_MAX)]
    probe: ProbeLimits
    evidence: Evidence
    tools: dict[str, str]
    """Versions of the tools that made it."""

    @model_validator(mode="after")
    def _files_are_distinct(self) -> Manifest:
        files = [artifact.file for artifact in self.artifacts]
        if len(set(files)) != len(files) or MANIFEST_FILE in files:
            raise ValueError("artifact file names must be distinct and not the manifest's")
        for role in (ArtifactRole.MODEL, ArtifactRole.GOLDEN):
            if sum(artifact.role is role for artifact in self.artifacts) != 1:
                raise ValueError(f"a bundle holds exactly one {role.value} artifact")
        return self

    def artifact(self, role: ArtifactRole) -> Artifact | None:
        """The first artifact with `role`, if there is one."""
        return next((artifact for artifact in self.artifacts if artifact.role is role), None)

    def total_size_bytes(self) -> int:
        """All artifacts together, without the manifest."""
        return sum(artifact.size_bytes for artifact in self.artifacts)


def encode_manifest(manifest: Manifest) -> bytes:
    """The bytes whose SHA-256 names the bundle. Law: `Manifest.model_validate_json` reads them back."""
    return canonical_json(manifest)
