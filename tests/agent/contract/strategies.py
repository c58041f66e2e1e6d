"""Random documents of the contract, all valid."""

from __future__ import annotations

from hypothesis import strategies as st

from packhorse_agent.contract.chunks import index_sizes
from packhorse_agent.contract.manifest import (
    Artifact,
    ArtifactRole,
    Evidence,
    Interval,
    Manifest,
    ProbeLimits,
    Quality,
    RuntimeRequirement,
    TensorSpec,
)
from packhorse_agent.contract.recipe import (
    DynamicWi8Afp32,
    Fp32,
    MixedWi8Ai8,
    StaticWi8Ai8,
    StaticWi8Ai16,
    WeightOnlyWi4Afp32,
)
from packhorse_agent.contract.rollout import (
    Assignments,
    Baseline,
    BundleRef,
    Rollout,
    RolloutsDocument,
    RolloutState,
    Selector,
)
from packhorse_agent.contract.selection import DeviceFacts

names = st.from_regex(r"[a-z0-9][a-z0-9._-]{0,20}", fullmatch=True)
digests = st.binary(min_size=32, max_size=32).map(bytes.hex)
versions = st.lists(st.integers(0, 999_999_999), min_size=1, max_size=4).map(
    lambda numbers: ".".join(map(str, numbers))
)
salts = st.binary(min_size=16, max_size=16).map(bytes.hex)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
finite = st.floats(allow_nan=False, allow_infinity=False)
percents = st.floats(0, 100)
tags = st.sampled_from(["canary", "north", "south", "lab"])
profiles = st.sampled_from(["raspberry-pi-5", "jetson-orin-nano", "android-arm64"])

nodes = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)
recipes = st.one_of(
    st.just(Fp32()),
    st.builds(DynamicWi8Afp32, per_channel=st.booleans()),
    st.builds(StaticWi8Ai8, symmetric_activations=st.booleans(), reduce_range=st.booleans()),
    st.builds(StaticWi8Ai16, equalize=st.booleans(), correct_bias=st.booleans()),
    st.builds(MixedWi8Ai8, float_nodes=st.lists(nodes, min_size=1, max_size=5).map(tuple)),
    st.builds(WeightOnlyWi4Afp32, block_size=st.sampled_from([32, 128])),
)
tensors = st.builds(
    TensorSpec,
    name=st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20),
    datatype=st.sampled_from(["FP32", "INT8", "UINT8"]),
    shape=st.lists(st.integers(-1, 10_000), max_size=5).map(tuple),
)
quality = st.builds(
    Quality,
    metric=st.sampled_from(["top1_percent", "cer_percent", "output_sqnr_db", "own_package.pose:Oks"]),
    unit=st.sampled_from(["percent", "db"]),
    higher_is_better=st.booleans(),
    dataset_sha256=digests,
    samples=st.integers(1, 10_000),
    fp32=percents,
    quantized=percents,
    drop_points=finite,
    drop_ci95_points=st.builds(Interval, low=finite, high=finite),
    agreement_percent=st.none() | percents,
)
evidence = st.builds(
    Evidence,
    quality=st.none() | quality,
    max_drop_points=st.none() | finite,
    overrides=st.lists(names, max_size=2).map(tuple),
    sqnr_db=st.none() | finite,
    size_fp32_bytes=st.integers(1, 2**40),
    size_bytes=st.integers(1, 2**40),
    integer_kernels=st.integers(0, 1000),
    compute_kernels=st.integers(0, 1000),
    calibration_sha256=st.none() | digests,
    calibration_samples=st.integers(0, 10_000),
    source_sha256=digests,
)
runtimes = st.builds(
    RuntimeRequirement, name=st.just("onnxruntime"), minimum_version=versions, threads=st.integers(1, 256)
)
probes = st.builds(
    ProbeLimits,
    sqnr_min_db=finite,
    agreement_min_percent=percents,
    decision_margin=st.floats(0, 10),
    vectors=st.integers(1, 100),
    classification=st.booleans(),
)


@st.composite
def artifacts(draw: st.DrawFn, role: ArtifactRole, file: str) -> Artifact:
    """One artifact with as many index levels as its size needs."""
    size_bytes = draw(st.sampled_from([1, 65536, 65537, 2**27, 2**27 + 1, 2**33]) | st.integers(1, 2**33))
    chunk_index = tuple(draw(digests) for _ in index_sizes(size_bytes))
    return Artifact(
        role=role, file=file, sha256=draw(digests), size_bytes=size_bytes, chunk_index=chunk_index
    )


@st.composite
def manifests(draw: st.DrawFn) -> Manifest:
    """A whole manifest."""
    parts = [artifacts(ArtifactRole.MODEL, "model.onnx"), artifacts(ArtifactRole.GOLDEN, "golden.npz")]
    if draw(st.booleans()):
        parts.append(artifacts(ArtifactRole.LABELS, "labels.txt"))
    return Manifest(
        model=draw(names),
        version=draw(versions),
        profile=draw(names),
        recipe=draw(recipes),
        runtime=draw(runtimes),
        inputs=tuple(draw(st.lists(tensors, min_size=1, max_size=2))),
        outputs=tuple(draw(st.lists(tensors, min_size=1, max_size=2))),
        artifacts=tuple(draw(part) for part in parts),
        probe=draw(probes),
        evidence=draw(evidence),
        tools=draw(st.dictionaries(texts, texts, max_size=2)),
    )


bundle_refs = st.builds(
    BundleRef, target=names.map("bundles/{}".format), sha256=digests, size_bytes=st.integers(1, 65536)
)
selectors = st.builds(
    Selector,
    profiles=st.lists(profiles, max_size=2).map(tuple),
    tags_all=st.lists(tags, max_size=1).map(tuple),
    tags_none=st.lists(tags, max_size=1).map(tuple),
    agent_minimum_version=st.sampled_from(["", "0.1", "2.0"]),
    device_ids=st.just(()),
)
rollouts = st.builds(
    Rollout,
    id=names,
    slot=st.sampled_from(["detector", "wake-word"]),
    model=names,
    version=versions,
    generation=st.integers(1, 100),
    state=st.sampled_from(RolloutState),
    selector=selectors,
    salt=salts,
    bundles=st.dictionaries(profiles, bundle_refs, min_size=1, max_size=3),
    included_tags=st.lists(tags, max_size=2).map(tuple),
    share_ppm=st.integers(0, 1_000_000),
    soak_s=st.floats(0, 7 * 86400),
)
baselines = st.builds(
    Baseline,
    slot=st.sampled_from(["detector", "wake-word"]),
    profile=profiles,
    model=names,
    version=versions,
    rollout_id=names,
    generation=st.integers(1, 100),
    bundle=bundle_refs,
)
documents = st.builds(
    RolloutsDocument,
    fleet=names,
    rollouts=st.lists(rollouts, max_size=3).map(tuple),
    baselines=st.lists(baselines, max_size=3).map(tuple),
)
assignments = st.builds(
    Assignments, salt=salts, tags=st.dictionaries(digests, st.lists(tags, max_size=2).map(tuple), max_size=3)
)
devices = st.builds(
    DeviceFacts,
    device_id=names,
    profile=profiles,
    agent_version=st.sampled_from(["0.1.0", "1.9.9", "2.0"]),
    tags=st.frozensets(tags, max_size=3),
)
