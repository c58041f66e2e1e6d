"""`packhorse inspect`: check a bundle and show what is in it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from packhorse_host.cli.output import JsonOption, print_json, print_table

if TYPE_CHECKING:
    from packhorse_agent.contract.manifest import Manifest
    from packhorse_agent.contract.measurement import Measurement


def inspect(
    bundle: Annotated[Path, typer.Argument(help="A bundle's folder.", metavar="BUNDLE")],
    as_json: JsonOption = False,
) -> None:
    """Compare every file of a bundle with its manifest, and show what it is and how good.

    This says that the bundle is whole, not who made it: that is what publishing signs.

    \b
    Example:
      packhorse inspect bundles/detector-1.0-raspberry-pi-5-static_wi8_ai8 --json
    """
    from packhorse_agent.contract.measurement import Measurement
    from packhorse_agent.trust.bundle_folder import verify_bundle_folder
    from packhorse_host.errors import NotFoundError

    if not bundle.exists():
        raise NotFoundError(f"{bundle}: there is no such bundle")
    verified = verify_bundle_folder(bundle)
    measured = verified.measurement_bytes
    measurement = Measurement.model_validate_json(measured) if measured else None
    if as_json:
        print_json(
            {
                "bundle": str(bundle),
                "digest": verified.sha256,
                "manifest": verified.manifest,
                "measurement": measurement,
            }
        )
        return
    _print(verified.sha256, verified.manifest, measurement)


def _print(digest: str, manifest: Manifest, measurement: Measurement | None) -> None:
    typer.echo(f"{manifest.model} {manifest.version} for {manifest.profile}, {manifest.recipe.name}\n")
    print_table(["BUNDLE", ""], _about(digest, manifest))
    typer.echo()
    print_table(["EVIDENCE", ""], _evidence(manifest))
    typer.echo()
    print_table(["LATENCY", ""], _latency(measurement))
    typer.echo()
    rows = [
        [entry.file, entry.role.value, f"{entry.size_bytes:,}", entry.sha256] for entry in manifest.artifacts
    ]
    print_table(["ARTIFACT", "ROLE", "BYTES", "SHA-256"], rows)
    typer.echo("\nEvery file has the size, the digest and the chunks that the manifest names.")


def _about(digest: str, manifest: Manifest) -> list[list[str]]:
    from packhorse_host.bundle.words import tensor_text

    runtime, probe = manifest.runtime, manifest.probe
    agreement = (
        f", {probe.agreement_min_percent:g} % agreement where scores lie {probe.decision_margin:g} apart"
        if probe.classification
        else ""
    )
    providers = ", ".join(runtime.providers) or "CPU"
    return [
        ["digest", digest],
        ["runtime", f"{runtime.name} >= {runtime.minimum_version} on {providers}, {runtime.threads} threads"],
        ["inputs", "; ".join(tensor_text(spec) for spec in manifest.inputs)],
        ["outputs", "; ".join(tensor_text(spec) for spec in manifest.outputs)],
        ["probe", f"{probe.vectors} vectors: {probe.sqnr_min_db:.1f} dB to FP32{agreement}"],
        ["made by", ", ".join(f"{tool} {version}" for tool, version in sorted(manifest.tools.items()))],
    ]


def _evidence(manifest: Manifest) -> list[list[str]]:
    from packhorse_host.bundle.words import UNKNOWN, drop_text, kernels_text, score_text, size_text

    evidence, quality = manifest.evidence, manifest.evidence.quality
    rows = [
        ["top-1, FP32 → this", f"{score_text(evidence)} %" if quality else "not evaluated"],
        ["drop in points (95 %)", drop_text(evidence)],
        [
            "drop allowed",
            UNKNOWN if evidence.max_drop_points is None else f"{evidence.max_drop_points:g} points",
        ],
        ["SQNR to FP32", UNKNOWN if evidence.sqnr_db is None else f"{evidence.sqnr_db:.1f} dB"],
        ["model size, FP32 → this", size_text(evidence)],
        ["integer kernels", kernels_text(evidence)],
        [
            "calibrated on",
            f"{evidence.calibration_samples} samples, {evidence.calibration_sha256 or UNKNOWN}",
        ],
        ["packed from", evidence.source_sha256],
        ["overridden rules", ", ".join(evidence.overrides) or "none"],
    ]
    if quality:
        alike = quality.agreement_percent
        agreement = UNKNOWN if alike is None else f"{alike:.2f} % of {quality.samples} samples"
        rows.insert(2, ["decisions alike", agreement])
        rows.insert(3, ["evaluated on", f"{quality.samples} samples, {quality.dataset_sha256}"])
    return rows


def _latency(measurement: Measurement | None) -> list[list[str]]:
    from packhorse_host.bundle.words import latency_text, speed_text

    if measurement is None:
        return [["measured", "not with this bundle"]]
    machine = measurement.machine
    return [
        ["fp32", latency_text(measurement.fp32)],
        ["this", latency_text(measurement.bundle)],
        ["speed-up (95 %)", speed_text(measurement)],
        ["machine", f"{machine.architecture}, {machine.cpu_model}, {machine.threads} threads"],
        ["features", ", ".join(machine.cpu_features) or "not known"],
        ["runtime", f"{machine.runtime} {machine.runtime_version}"],
    ]
