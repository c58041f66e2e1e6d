"""From a model and a list of profiles to bundle folders: all of them, or an error and none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

from packhorse_agent.contract.base import sha256_hex
from packhorse_agent.contract.manifest import (
    Artifact,
    ArtifactRole,
    Evidence,
    Manifest,
    encode_manifest,
)
from packhorse_agent.contract.measurement import Measurement
from packhorse_agent.contract.profile import RuntimeName
from packhorse_agent.runtime.golden import encode_golden
from packhorse_agent.runtime.installed import installed_runtimes
from packhorse_host.bundle.auto import Auto
from packhorse_host.bundle.emitters import Emitter, emitter_for
from packhorse_host.bundle.folder import BundleContent, FolderWriter, describe_artifact
from packhorse_host.bundle.machine import measuring_machine, usable_cores
from packhorse_host.bundle.request import Material, PackRequest, Target, plan, read_material
from packhorse_host.bundle.rules import broken_rules, notices, refuse
from packhorse_host.bundle.workbench import Announce, Workbench
from packhorse_host.evaluate.stand_in import runs_here
from packhorse_host.quantize import emit_tensorrt
from packhorse_host.quantize.recipes import AUTO
from packhorse_host.quantize.search.search import SearchResult

GOLDEN_FILE = "golden.npz"
LABELS_FILE = "labels.txt"
PREPROCESSING_FILE = "preprocessing.json"


@dataclass(frozen=True)
class PackedBundle:
    """A bundle folder that stands, and what is worth saying about it."""

    folder: Path
    digest: str
    """SHA-256 of the manifest: the bundle's name."""
    manifest: Manifest
    measurement: Measurement
    notices: tuple[str, ...]
    search: SearchResult | None
    """How the recipe was found; None where it was named."""

    @property
    def model(self) -> Path:
        """The model artifact."""
        files = (entry.file for entry in self.manifest.artifacts if entry.role is ArtifactRole.MODEL)
        return self.folder / next(files)


def pack(request: PackRequest, announce: Announce) -> list[PackedBundle]:
    """Quantize, evaluate, time and write one bundle for each profile.

    Raises:
        ConfigError, BadInputError: as `plan` and `read_material`.
        RefusedError: a bundle breaks a rule that is not overridden; none is written.
        OtherBundleError: another bundle is where one should go; none is written.
        EnvironmentFaultError: disk or runtime; none is written.
    """
    targets = plan(request)
    announce(f"reading {request.model.name}")
    material = read_material(request, targets, announce)
    benches = {name: _bench(request, material, targets, name, announce) for name in material.models}
    with FolderWriter(request.output) as writer:
        bundles = [
            _pack_one(request, material, *benches[target.requirement.name], target, writer)
            for target in targets
        ]
        writer.publish()
    return bundles


def _bench(
    request: PackRequest,
    material: Material,
    targets: Sequence[Target],
    runtime: RuntimeName,
    announce: Announce,
) -> tuple[Workbench, Emitter, Auto | None]:
    """What all targets of one runtime share."""
    emitter = emitter_for(material.models[runtime])
    requirement = next(each.requirement for each in targets if each.requirement.name == runtime)
    bench = Workbench(material, emitter, requirement, announce)
    searched = request.recipe == AUTO and material.data is not None
    return bench, emitter, Auto(bench, request, announce) if searched else None


def _pack_one(
    request: PackRequest,
    material: Material,
    bench: Workbench,
    emitter: Emitter,
    auto: Auto | None,
    target: Target,
    writer: FolderWriter,
) -> PackedBundle:
    search = auto.find(target) if auto else None
    if search:
        target = replace(target, recipe=search.recipe)
    evidence = _evidence(request, material, bench, emitter, target, search)
    broken = broken_rules(target.recipe, evidence, bench.variant(target.recipe).golden)
    refuse(target.profile.name, broken, request.allowed)
    evidence = evidence.model_copy(update={"overrides": tuple(sorted(rule.value for rule in broken))})
    files = _files(material, bench, emitter, target)
    manifest = _manifest(request, bench, emitter, target, evidence, files)
    measurement = _measure(manifest, bench, target)
    folder = writer.stage(BundleContent(manifest, {entry.file: data for entry, data in files}, measurement))
    said = [f"overridden by --allow: {text}" for text in broken.values()]
    said += notices(target.recipe, evidence, measurement)
    if target.requirement.name == "tensorrt":
        said += emit_tensorrt.NOTES
    if search and search.out_of_time:
        said.append(
            f"the search ended after --search-seconds {request.search_seconds:g}; more may find better"
        )
    said += material.evaluation.doubts() if material.evaluation else []
    if bench.vectors_are_synthesized:
        said.append("golden vectors are made up, since there is neither --calibration nor --evaluation")
    digest = sha256_hex(encode_manifest(manifest))
    return PackedBundle(folder, digest, manifest, measurement, tuple(said), search)


def _evidence(
    request: PackRequest,
    material: Material,
    bench: Workbench,
    emitter: Emitter,
    target: Target,
    search: SearchResult | None,
) -> Evidence:
    variant = bench.variant(target.recipe)
    kernels = bench.kernels(target.recipe, target.architecture)
    calibration = material.calibration if target.calibrated else None
    return Evidence(
        quality=variant.quality,
        max_drop_points=request.budget_points,
        sqnr_db=None if variant.sqnr_db is None else round(variant.sqnr_db, 2),
        size_fp32_bytes=len(emitter.source.data),
        size_bytes=len(variant.model),
        integer_kernels=kernels.integer,
        compute_kernels=kernels.compute,
        calibration_sha256=calibration.sha256 if calibration else None,
        calibration_samples=calibration.count if calibration else 0,
        source_sha256=material.source_sha256,
        data_free=variant.data_free,
        recipe_reason=search.why if search else None,
    )


def _files(
    material: Material, bench: Workbench, emitter: Emitter, target: Target
) -> list[tuple[Artifact, bytes]]:
    variant = bench.variant(target.recipe)
    contents = [
        (ArtifactRole.MODEL, emitter.model_file, variant.model),
        (ArtifactRole.GOLDEN, GOLDEN_FILE, encode_golden(variant.golden)),
        (ArtifactRole.LABELS, LABELS_FILE, material.labels),
        (ArtifactRole.PREPROCESSING, PREPROCESSING_FILE, material.preprocessing),
    ]
    return [(describe_artifact(role, file, data), data) for role, file, data in contents if data is not None]


def _manifest(
    request: PackRequest,
    bench: Workbench,
    emitter: Emitter,
    target: Target,
    evidence: Evidence,
    files: list[tuple[Artifact, bytes]],
) -> Manifest:
    return Manifest(
        model=request.name,
        version=request.version,
        profile=target.profile.name,
        recipe=target.recipe,
        runtime=target.requirement,
        inputs=emitter.source.inputs,
        outputs=emitter.source.outputs,
        artifacts=tuple(entry for entry, _ in files),
        probe=bench.variant(target.recipe).probe,
        evidence=evidence,
        tools={tool: version(tool) for tool in emitter.tools},
    )


def _measure(manifest: Manifest, bench: Workbench, target: Target) -> Measurement:
    runtime = runs_here(target.requirement).name
    threads = min(target.requirement.threads, usable_cores())
    machine = measuring_machine(runtime, installed_runtimes()[runtime], threads)
    timed = bench.race(target.recipe, threads)
    return Measurement(
        manifest_sha256=sha256_hex(encode_manifest(manifest)),
        machine=machine,
        fp32=timed.fp32,
        bundle=timed.bundle,
        speedup=timed.speedup,
        speedup_ci95=timed.speedup_ci95,
        verified=runtime == target.requirement.name
        and machine.architecture in target.profile.compatible.architectures,
    )
