"""What is to be packed, resolved and checked before anything expensive begins."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from pydantic import TypeAdapter, ValidationError

from packhorse_agent.contract.base import Name, Version
from packhorse_agent.contract.manifest import RuntimeRequirement, TensorSpec
from packhorse_agent.contract.profile import Profile, RuntimeName
from packhorse_agent.contract.recipe import Recipe, StaticWi8Ai8
from packhorse_host.bundle.descriptions import encode_labels, read_labels, read_preprocessing
from packhorse_host.bundle.rules import Rule
from packhorse_host.bundle.settings import Settings
from packhorse_host.convert.convert import check_convertible, convertible, float_model
from packhorse_host.convert.model import FORMATS, FloatModel
from packhorse_host.convert.sources import Source, recognise, source_sha256
from packhorse_host.errors import ConfigError
from packhorse_host.evaluate import read as data
from packhorse_host.evaluate.metrics.base import Metric
from packhorse_host.evaluate.metrics.registry import MetricOptions, load_metric, needed_truth
from packhorse_host.evaluate.preprocessing import Preprocessing, parse_preprocessing
from packhorse_host.evaluate.samples import LabelledSamples, Samples
from packhorse_host.evaluate.vectors import CANDIDATES
from packhorse_host.quantize.data_free.synthesize import SAMPLES, synthesize
from packhorse_host.quantize.errors import CalibrationNeededError
from packhorse_host.quantize.graph import Architecture
from packhorse_host.quantize.recipes import (
    AUTO,
    PACKABLE_RUNTIMES,
    choose_recipe,
    choose_runtime,
    fuses_as,
    needs_calibration,
)
from packhorse_host.quantize.search.policy import DEFAULT_MAX_DROP_POINTS, Preference
from packhorse_host.quantize.search.search import SEARCH_SECONDS
from packhorse_host.quantize.source import SourceModel, read_source

DEFAULT_METRIC: Final = "top1_percent"


@dataclass(frozen=True)
class PackRequest:
    """What was asked for."""

    model: Path
    name: str
    version: str
    profiles: Sequence[Profile]
    recipe: str = AUTO
    calibration: Path | None = None
    evaluation: Path | None = None
    max_drop_points: float | None = None
    labels: Path | None = None
    preprocessing: Path | None = None
    allowed: frozenset[Rule] = frozenset()
    output: Path = Path("bundles")
    settings: Settings = field(default_factory=Settings)
    preference: Preference = Preference.SPEED
    thorough: bool = False
    search_seconds: float = SEARCH_SECONDS
    metric: str = DEFAULT_METRIC
    metric_options: MetricOptions = field(default_factory=MetricOptions)
    runtime: RuntimeName | None = None
    """None: each profile's first that the model can be converted for."""
    reference: str | None = None
    """`FILE.py:NAME` of the class that weights of PyTorch belong to."""
    inputs: tuple[TensorSpec, ...] = ()
    """What the model takes, where its file does not say."""
    load_pickle: bool = False
    """Whether a whole Python object may be loaded, inside the tool environment."""

    @property
    def budget_points(self) -> float | None:
        """What the metric may lose; a search that can measure it has a budget always."""
        searched = self.recipe == AUTO and self.evaluation is not None
        return DEFAULT_MAX_DROP_POINTS if searched and self.max_drop_points is None else self.max_drop_points


@dataclass(frozen=True)
class Target:
    """One profile with the runtime and the recipe that it gets."""

    profile: Profile
    requirement: RuntimeRequirement
    recipe: Recipe
    """What a search begins with, where there is one."""
    architecture: Architecture
    static: StaticWi8Ai8 | None = None
    """What a search's candidates with calibration start from; None: there is nothing to calibrate with."""

    @property
    def calibrated(self) -> bool:
        """Whether calibration data goes into the recipe."""
        return needs_calibration(self.recipe)


@dataclass(frozen=True)
class Material:
    """All that was handed in, read and checked against the model."""

    models: Mapping[RuntimeName, FloatModel]
    """The float model for each runtime that is packed for."""
    source_sha256: str
    """Of the model as it came."""
    calibration: Samples | None
    evaluation: LabelledSamples | None
    metric: Metric
    """What is evaluated by; of no use without an evaluation set."""
    labels: bytes | None
    preprocessing: bytes | None
    made_up: Samples | None = None
    """Where `calibration` is made up: more of its kind, which no range was taken from."""

    @property
    def data(self) -> Samples | None:
        """What models are compared on: evaluation samples, else made-up ones, else calibration samples."""
        if self.evaluation is not None:
            return self.evaluation.samples
        return self.calibration if self.made_up is None else self.made_up


def plan(request: PackRequest) -> list[Target]:
    """Resolve each profile to a runtime and a recipe.

    Raises:
        ConfigError: a malformed name or version, no profile, a budget that nothing can be held against,
            an unknown recipe, or a recipe that needs calibration where there is none.
        BadInputError: a profile that no runtime serves.
    """
    _check_text("name", request.name, TypeAdapter(Name))
    _check_text("version", request.version, TypeAdapter(Version))
    if not request.profiles:
        raise ConfigError("no profile to pack for: give --profile NAME, once or more")
    if request.max_drop_points is not None and request.evaluation is None:
        raise ConfigError("--max-drop needs --evaluation FILE.npz to measure the drop on")
    if not math.isfinite(request.max_drop_points or 0.0):
        raise ConfigError(f"--max-drop must be a number of points, found {request.max_drop_points}")
    if request.settings.data_free and request.calibration is not None:
        raise ConfigError("--data-free makes up its own inputs: leave out --calibration, or --data-free")
    unique = {profile.name: profile for profile in request.profiles}
    for profile in unique.values():  # what was asked for is checked before a file is looked at
        _check_wish(request, profile)
    kind = source_of(request).kind
    targets = [_target(request, profile, convertible(kind)) for profile in unique.values()]
    for target in targets:
        check_convertible(kind, target.requirement.name)
    return targets


def _check_wish(request: PackRequest, profile: Profile) -> None:
    try:
        _target(request, profile, PACKABLE_RUNTIMES)
    except CalibrationNeededError:
        if source_of(request).kind == "onnx":
            read_source(request.model)  # data for a file that is no model would not help
        raise


def source_of(request: PackRequest) -> Source:
    """The model as it was handed in.

    Raises:
        BadInputError: no such file, or of a kind that nothing here reads.
        ConfigError: weights without their class.
    """
    return recognise(
        request.model, reference=request.reference, inputs=request.inputs, pickled=request.load_pickle
    )


def read_material(
    request: PackRequest, targets: Sequence[Target], announce: Callable[[str], None]
) -> Material:
    """Read the model and the files that come with it; convert it for each runtime.

    Raises:
        BadInputError: one of them is missing, malformed, or does not fit the model.
        ConfigError: there is no such metric, or it does not take its options.
        EnvironmentFaultError: a converter cannot be had here.
    """
    metric = load_metric(request.metric, request.metric_options)
    source = source_of(request)
    models = _converted(source, targets, announce)
    first = next(iter(models.values()))
    inputs, outputs = first.inputs, first.outputs
    how = data.read_preprocessing(request.preprocessing, request.calibration, request.evaluation)
    needs = needed_truth(metric)
    calibration, made_up = _calibration(request, first, how)
    return Material(
        models=models,
        source_sha256=source_sha256(source, first),
        calibration=calibration,
        evaluation=data.read_evaluation(request.evaluation, inputs, how, needs)
        if request.evaluation
        else None,
        metric=metric,
        labels=encode_labels(read_labels(request.labels, outputs)) if request.labels else None,
        preprocessing=read_preprocessing(request.preprocessing, inputs) if request.preprocessing else None,
        made_up=made_up,
    )


def tensor_names(specs: Sequence[TensorSpec]) -> tuple[str, ...]:
    """Names of inputs or outputs, in order."""
    return tuple(spec.name for spec in specs)


def _calibration(
    request: PackRequest, model: FloatModel, how: Preprocessing | None
) -> tuple[Samples | None, Samples | None]:
    if not request.settings.data_free:
        given = request.calibration
        return (data.read_calibration(given, model.inputs, how) if given else None), None
    if request.preprocessing is not None:
        how = parse_preprocessing(
            read_preprocessing(request.preprocessing, model.inputs), str(request.preprocessing)
        )
    if FORMATS[model.runtime] != "onnx":
        raise ConfigError(f"--data-free reads an ONNX graph: it is not to be had for {model.runtime}")
    source = SourceModel(model.data, model.sha256, model.inputs, model.outputs)
    made = synthesize(source, how, SAMPLES + CANDIDATES)
    return made.take(range(SAMPLES)), made.take(range(SAMPLES, made.count))


def _converted(
    source: Source, targets: Sequence[Target], announce: Callable[[str], None]
) -> Mapping[RuntimeName, FloatModel]:
    names = dict.fromkeys(target.requirement.name for target in targets)
    models: dict[RuntimeName, FloatModel] = {name: float_model(source, name, announce) for name in names}
    tensors = {
        tuple(sorted(spec.name for spec in (*model.inputs, *model.outputs))) for model in models.values()
    }
    if len(tensors) > 1:
        raise ConfigError(
            f"the model's tensors have other names on {' than on '.join(models)}: "
            "pack for one runtime at a time, with --runtime"
        )
    return models


def _target(request: PackRequest, profile: Profile, possible: Collection[RuntimeName]) -> Target:
    runtime = choose_runtime(profile, request.runtime, possible)
    recipe = _start(request, choose_recipe(request.recipe, profile, runtime.name))
    if needs_calibration(recipe) and not _can_calibrate(request):
        wish = f"profile `{profile.name}` prefers {recipe.name}" if request.recipe == AUTO else recipe.name
        raise CalibrationNeededError(
            f"{wish}, which needs calibration data: give --calibration with one array per model input "
            "(about 100 samples) or --data-free, or choose --recipe dynamic_wi8_afp32 or --recipe fp32"
        )
    requirement = RuntimeRequirement(
        name=runtime.name,
        minimum_version=runtime.minimum_version,
        providers=runtime.providers,
        threads=profile.threads,
    )
    static = _static(request, profile, runtime.name) if request.recipe == AUTO else None
    return Target(profile, requirement, recipe, fuses_as(profile), static)


def _start(request: PackRequest, recipe: Recipe) -> Recipe:
    """With the details that were set by hand; a search applies them where they fit."""
    if request.recipe == AUTO and not needs_calibration(recipe):
        return recipe
    return request.settings.apply(recipe)


def _static(request: PackRequest, profile: Profile, runtime: RuntimeName) -> StaticWi8Ai8 | None:
    if not _can_calibrate(request):
        return None
    recipe = request.settings.apply(choose_recipe("static_wi8_ai8", profile, runtime))
    return recipe if isinstance(recipe, StaticWi8Ai8) else None


def _can_calibrate(request: PackRequest) -> bool:
    return request.calibration is not None or request.settings.data_free


def _check_text(what: str, text: str, kind: TypeAdapter[str]) -> None:
    try:
        kind.validate_python(text)
    except ValidationError as error:
        rule = (
            "numbers with dots, such as 1.0.2" if what == "version" else "a-z, 0-9, `.`, `_`, `-`, 63 at most"
        )
        raise ConfigError(f"--{what} `{text}` is not valid: {rule}") from error
