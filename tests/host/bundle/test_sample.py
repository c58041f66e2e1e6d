"""The sample that ships, packed as the demonstration packs it."""

from __future__ import annotations

from pathlib import Path

import pytest

from packhorse_agent.profiles import find_profile
from packhorse_agent.runtime.golden import read_golden
from packhorse_host.bundle.pack import PackedBundle, pack
from packhorse_host.bundle.request import PackRequest

SAMPLE = Path(__file__).parents[3] / "samples" / "fashion-mnist"
PROFILES = ("raspberry-pi-5", "android-arm64", "jetson-orin-nano")


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> list[PackedBundle]:
    request = PackRequest(
        SAMPLE / "model.onnx",
        "fashion-mnist",
        "1.0",
        [find_profile(name) for name in PROFILES],
        calibration=SAMPLE / "calibration.npz",
        evaluation=SAMPLE / "evaluation.npz",
        max_drop_points=1.0,
        labels=SAMPLE / "labels.txt",
        preprocessing=SAMPLE / "preprocessing.json",
        output=tmp_path_factory.mktemp("bundles"),
    )
    return pack(request, lambda text: None)


def test_every_profile_gets_a_bundle(bundles: list[PackedBundle]) -> None:
    assert [bundle.manifest.profile for bundle in bundles] == list(PROFILES)


def test_every_kernel_is_integer(bundles: list[PackedBundle]) -> None:
    """Depthwise and residual convolutions included."""
    evidence = bundles[0].manifest.evidence
    assert evidence.integer_kernels == evidence.compute_kernels == 24


def test_it_is_half_the_size_and_as_good(bundles: list[PackedBundle]) -> None:
    """A point of 93 %, on 2,000 images that it was not calibrated with."""
    evidence = bundles[0].manifest.evidence
    assert evidence.size_bytes < evidence.size_fp32_bytes / 2
    assert evidence.quality is not None
    assert evidence.quality.samples == 2000
    assert evidence.quality.fp32 > 93
    assert evidence.quality.drop_points <= 1.0
    assert evidence.quality.agreement_percent is not None
    assert evidence.quality.agreement_percent > 98


def test_golden_vectors_show_every_class(bundles: list[PackedBundle]) -> None:
    golden = read_golden(bundles[0].folder / "golden.npz")
    assert set(golden.fp32["logits"].argmax(axis=1)) == set(range(10))
