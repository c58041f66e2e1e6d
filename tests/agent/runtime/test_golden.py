"""Golden vectors: the file, the figures and the verdict."""

from __future__ import annotations

import io
import itertools
import math
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from packhorse_agent.contract.manifest import ProbeLimits, TensorSpec
from packhorse_agent.contract.messages import ProbeResult
from packhorse_agent.runtime import golden as module
from packhorse_agent.runtime.datatypes import Array, Tensors
from packhorse_agent.runtime.errors import MalformedGoldenError
from packhorse_agent.runtime.golden import (
    SQNR_FLOOR_DB,
    GoldenVectors,
    Replay,
    agreement_percent,
    compare,
    decode_golden,
    encode_golden,
    read_golden,
    replay,
    sqnr_db,
    worst_sqnr_db,
    write_golden,
)
from tests.agent.models import linear_golden, probe_limits

SCORES = (TensorSpec(name="scores", datatype="FP32", shape=(-1, 3)),)
X = TensorSpec(name="x", datatype="FP32", shape=(-1, 4))

arrays = hnp.arrays(
    dtype=st.sampled_from([np.dtype(kind) for kind in ("bool", "i1", "u8", "f2", "f4", "f8")]),
    shape=st.tuples(st.just(3), st.integers(1, 4)),
)


def assert_same(one: Tensors, other: Tensors) -> None:
    assert one.keys() == other.keys()
    for name, array in one.items():
        assert array.dtype == other[name].dtype
        np.testing.assert_array_equal(array, other[name])


@given(inputs=st.dictionaries(st.sampled_from(["x", "a/b", "mäß"]), arrays, min_size=1), output=arrays)
def test_the_file_gives_back_what_was_written(inputs: dict[str, Array], output: Array) -> None:
    golden = GoldenVectors(inputs, {"y": output}, {"y": output})
    back = decode_golden(encode_golden(golden))
    assert_same(back.inputs, golden.inputs)
    assert_same(back.fp32, golden.fp32)
    assert_same(back.host, golden.host)


def test_equal_vectors_give_equal_bytes_whatever_order_and_byte_order_they_came_in() -> None:
    rows = np.arange(6, dtype=np.float32).reshape(2, 3)
    one = GoldenVectors({"a": rows, "b": rows}, {"y": rows}, {"y": rows})
    columns = np.asfortranarray(rows)
    other = GoldenVectors({"b": columns, "a": rows}, {"y": rows}, {"y": rows})
    assert encode_golden(one) == encode_golden(other)


def test_numpy_reads_the_file_without_pickle(tmp_path: Path) -> None:
    path = tmp_path / "golden.npz"
    golden = linear_golden()
    write_golden(path, golden)
    with np.load(path, allow_pickle=False) as content:
        assert sorted(content) == ["fp32.scores", "host.scores", "input.x"]
        np.testing.assert_array_equal(content["input.x"], golden.inputs["x"])
    assert_same(read_golden(path).inputs, golden.inputs)


def npy(array: Array, allow_pickle: bool = False) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, array, version=(1, 0), allow_pickle=allow_pickle)
    return buffer.getvalue()


def zipped(members: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return buffer.getvalue()


ONES = npy(np.ones((2, 3), np.float32))
WHOLE = {"input.x.npy": ONES, "fp32.y.npy": ONES, "host.y.npy": ONES}
PICKLE = npy(np.array([{}, {}], dtype=object), allow_pickle=True)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"not a zip", id="not a zip"),
        pytest.param(encode_golden(linear_golden())[:-30], id="truncated"),
        pytest.param(zipped(WHOLE, zipfile.ZIP_DEFLATED), id="deflated"),
        pytest.param(zipped({}), id="no members"),
        pytest.param(zipped({**WHOLE, "../evil.npy": ONES}), id="unknown member"),
        pytest.param(zipped({"input.x.npy": ONES}), id="no outputs"),
        pytest.param(zipped({**WHOLE, "fp32.z.npy": ONES}), id="outputs differ"),
        pytest.param(zipped({**WHOLE, "input.x.npy": b"not an array"}), id="not an array"),
        pytest.param(zipped({**WHOLE, "input.x.npy": ONES[:-4]}), id="array is truncated"),
        pytest.param(zipped({**WHOLE, "input.x.npy": ONES + b"more"}), id="array has bytes left over"),
        pytest.param(zipped({**WHOLE, "input.x.npy": PICKLE}), id="a pickle"),
        pytest.param(zipped({**WHOLE, "input.x.npy": npy(np.array(["a", "b"]))}), id="text"),
        pytest.param(zipped({**WHOLE, "input.x.npy": npy(np.ones((3, 3), np.float32))}), id="other count"),
        pytest.param(zipped({**WHOLE, "input.x.npy": npy(np.ones((), np.float32))}), id="a scalar"),
        pytest.param(zipped({f"input.x{at}.npy": ONES for at in range(200)} | WHOLE), id="too many members"),
    ],
)
def test_a_bad_file_is_refused(data: bytes) -> None:
    with pytest.raises(MalformedGoldenError):
        decode_golden(data)


@pytest.mark.parametrize("data", [b"not a zip\n", zipped({**WHOLE, "input.x.npy": b"not an array\n"})])
def test_a_text_file_is_not_called_a_pickle(data: bytes) -> None:
    with pytest.raises(MalformedGoldenError) as caught:
        decode_golden(data)
    assert "pickle" not in str(caught.value)


def test_an_array_that_claims_more_than_it_holds_allocates_nothing() -> None:
    claim = np.lib.format.header_data_from_array_1_0(np.ones((2, 3), np.float32)) | {"shape": (2, 10**12)}
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, claim)
    header = buffer.getvalue()
    with pytest.raises(MalformedGoldenError):
        decode_golden(zipped({**WHOLE, "input.x.npy": header}))


def test_a_file_over_the_bound_is_refused_before_it_is_parsed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "GOLDEN_MAX_BYTES", 100)
    with pytest.raises(MalformedGoldenError, match="over 100"):
        decode_golden(encode_golden(linear_golden()))
    path = tmp_path / "golden.npz"
    write_golden(path, linear_golden())
    with pytest.raises(MalformedGoldenError, match="over 100"):
        read_golden(path)


def test_sqnr_follows_its_formula() -> None:
    reference = np.array([[3.0, 4.0]])
    assert sqnr_db(reference, reference + np.array([[0.0, 0.5]])) == pytest.approx(20.0)
    assert sqnr_db(reference, reference) is None


@pytest.mark.parametrize("bad", [math.nan, math.inf, 1e300])
def test_a_lost_signal_is_at_the_floor(bad: float) -> None:
    assert sqnr_db(np.array([1.0]), np.array([bad])) == SQNR_FLOOR_DB
    assert sqnr_db(np.array([0.0]), np.array([1.0])) == SQNR_FLOOR_DB


@given(hnp.arrays(np.float32, 8, elements=st.floats(1, 100, width=32)), st.floats(0.001, 0.1))
def test_sqnr_does_not_depend_on_the_scale(reference: Array, noise: float) -> None:
    actual = reference.astype(np.float64) * (1 + noise)
    one, other = sqnr_db(reference, actual), sqnr_db(reference * 4, actual * 4)
    assert one is not None
    assert one == pytest.approx(other)


def test_the_worst_output_counts() -> None:
    good, noisy = np.array([1.0, 1.0]), np.array([1.1, 1.0])
    assert worst_sqnr_db({"a": good, "b": good}, {"a": good, "b": noisy}) == sqnr_db(good, noisy)
    assert worst_sqnr_db({"a": good}, {"a": good}) is None


def test_agreement_counts_only_clear_decisions() -> None:
    reference = np.array([[0.0, 1.0], [0.5, 0.501], [1.0, 0.0], [2.0, 0.0]])
    actual = np.array([[0.0, 1.0], [0.6, 0.5], [0.0, 1.0], [math.nan, 0.0]])
    assert agreement_percent(reference, actual, 0.1) == pytest.approx(100 / 3)
    assert agreement_percent(reference, actual, 5.0) is None
    with pytest.raises(ValueError, match="two classes"):
        agreement_percent(reference[:, :1], actual[:, :1], 0.1)


def judge(
    actual: Array | None, limits: ProbeLimits | None = None, golden: GoldenVectors | None = None
) -> ProbeResult:
    golden = golden or linear_golden()
    outputs = {} if actual is None else {"scores": actual}
    return compare(golden, Replay(outputs, [3.0, 1.0, 2.0]), limits or probe_limits(8), SCORES)


def test_an_exact_replay_passes() -> None:
    result = judge(linear_golden().fp32["scores"])
    assert result == ProbeResult(
        passed=True,
        sqnr_db=None,
        agreement_percent=100.0,
        bit_exact=True,
        vectors=8,
        latency_p50_us=2.0,
        detail="",
    )


SCRAMBLE: dict[str, tuple[Callable[[Array], Array | None], str]] = {
    "noise": (lambda scores: scores * 1.1, "dB"),
    "another class": (lambda scores: -scores, "decisions agree"),
    "not a number": (lambda scores: scores * math.nan, "SQNR to FP32 is -300.0 dB"),
    "another shape": (lambda scores: scores[:, :2], "shape"),
    "missing": (lambda scores: None, "missing"),
}


@pytest.mark.parametrize("case", SCRAMBLE)
def test_a_wrong_replay_fails_and_says_why(case: str) -> None:
    change, word = SCRAMBLE[case]
    result = judge(change(linear_golden().fp32["scores"]))
    assert not result.passed
    assert not result.bit_exact
    assert word in result.detail


def test_free_outputs_are_judged_by_the_sqnr_alone() -> None:
    scores = linear_golden().fp32["scores"]
    result = judge(scores, probe_limits(8, classification=False))
    assert result.passed
    assert result.agreement_percent is None


def test_a_count_other_than_the_manifests_fails() -> None:
    assert "manifest says 9" in judge(linear_golden().fp32["scores"], probe_limits(9)).detail


def test_difference_to_the_host_alone_does_not_fail() -> None:
    golden = linear_golden()
    drifted = GoldenVectors(golden.inputs, golden.fp32, {"scores": golden.fp32["scores"] + 1})
    result = judge(golden.fp32["scores"], golden=drifted)
    assert result.passed
    assert not result.bit_exact


def run_sum(inputs: Tensors) -> dict[str, Array]:
    return {"sum": inputs["x"].sum(axis=1, keepdims=True)}


@pytest.mark.parametrize(("batch", "runs"), [(-1, 8), (1, 8), (4, 2)])
def test_replay_feeds_vectors_one_by_one_or_by_the_fixed_batch(batch: int, runs: int) -> None:
    ticks = itertools.count()
    golden = linear_golden()
    answer = replay(
        run_sum, (X.model_copy(update={"shape": (batch, 4)}),), golden, lambda: next(ticks) * 1e-6
    )
    assert answer.latencies_us == pytest.approx([1.0] * runs)
    np.testing.assert_allclose(answer.outputs["sum"], golden.inputs["x"].sum(axis=1, keepdims=True))


@pytest.mark.parametrize(
    "spec",
    [
        X.model_copy(update={"name": "y"}),
        X.model_copy(update={"datatype": "FP16"}),
        X.model_copy(update={"shape": (-1, 5)}),
        X.model_copy(update={"shape": (-1, 4, 1)}),
        X.model_copy(update={"shape": (3, 4)}),
    ],
)
def test_vectors_for_another_model_are_refused(spec: TensorSpec) -> None:
    with pytest.raises(MalformedGoldenError):
        replay(run_sum, (spec,), linear_golden(), lambda: 0.0)
