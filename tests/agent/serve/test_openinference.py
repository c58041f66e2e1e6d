"""JSON tensors in and out."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from packhorse_agent.contract.manifest import Datatype, TensorSpec
from packhorse_agent.runtime.datatypes import DTYPES, Array
from packhorse_agent.serve.openinference import (
    BadRequestError,
    UnencodableOutputError,
    decode_request,
    encode_response,
)

X = TensorSpec(name="x", datatype="FP32", shape=(-1, 2))
OUTPUTS = (
    TensorSpec(name="a", datatype="FP32", shape=(-1, 2)),
    TensorSpec(name="b", datatype="INT64", shape=(-1,)),
)


def tensor(**changes: Any) -> dict[str, Any]:
    return {"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1.5, 2]} | changes


def decoded(content: Any, spec: TensorSpec = X) -> Array:
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    return decode_request(body, (spec,), OUTPUTS).inputs["x"]


def of(datatype: Datatype, data: Any) -> Array:
    spec = TensorSpec(name="x", datatype=datatype, shape=(-1,))
    return decoded({"inputs": [tensor(datatype=datatype, shape=[len(data)], data=data)]}, spec)


@pytest.mark.parametrize("data", [[1.5, 2, 3, 4], [[1.5, 2], [3, 4]]])
def test_data_is_flat_or_nested(data: Any) -> None:
    array = decoded({"inputs": [tensor(shape=[2, 2], data=data)]})
    assert array.dtype == np.float32
    np.testing.assert_array_equal(array, [[1.5, 2], [3, 4]])


def test_parameters_are_ignored_and_id_and_outputs_are_kept() -> None:
    content = {
        "id": "q",
        "parameters": {"priority": 1},
        "inputs": [tensor(parameters={"binary_data": False})],
        "outputs": [{"name": "b", "parameters": {"binary_data": False}}],
    }
    request = decode_request(json.dumps(content).encode(), (X,), OUTPUTS)
    assert (request.id, request.outputs) == ("q", ("b",))
    assert decode_request(json.dumps({"inputs": [tensor()]}).encode(), (X,), OUTPUTS).outputs == ("a", "b")


def whole(**changes: Any) -> dict[str, Any]:
    return {"inputs": [tensor()]} | changes


BAD: dict[str, tuple[Any, str]] = {
    "empty": (b"", "not JSON"),
    "not JSON": (b"{", "not JSON"),
    "not UTF-8": (b'{"\xff"', "not JSON"),
    "deeply nested": (b"[" * 100_000, "not JSON"),
    "not an object": ([], "JSON object"),
    "NaN": (b'{"inputs": [{"data": [NaN]}]}', "not JSON"),
    "a number of 5000 digits": (b'{"id": ' + b"1" * 5000 + b"}", "not JSON"),
    "id is no text": (whole(id=7), "id"),
    "no inputs": ({}, "inputs must be a list"),
    "inputs not a list": ({"inputs": {}}, "inputs must be a list"),
    "an input without name": ({"inputs": [{}]}, "name"),
    "inputs empty": ({"inputs": []}, "expected the inputs x; found none"),
    "unknown input": ({"inputs": [tensor(name="y")]}, "expected the inputs x; found y"),
    "an input too many": ({"inputs": [tensor(), tensor(name="y")]}, "found x, y"),
    "an input twice": ({"inputs": [tensor(), tensor()]}, "twice"),
    "unknown output": (whole(outputs=[{"name": "z"}]), "outputs a, b, not z"),
    "an output twice": (whole(outputs=[{"name": "a"}, {"name": "a"}]), "twice"),
    "outputs not a list": (whole(outputs=3), "outputs must be a list"),
    "datatype missing": ({"inputs": [tensor(datatype=None)]}, "expected FP32"),
    "other datatype": ({"inputs": [tensor(datatype="INT8")]}, "expected FP32, found INT8"),
    "shape missing": ({"inputs": [tensor(shape=None)]}, r"expected the shape \[-1, 2\]"),
    "shape too short": ({"inputs": [tensor(shape=[2])]}, "shape"),
    "shape too long": ({"inputs": [tensor(shape=[1, 2, 1])]}, "shape"),
    "shape differs": ({"inputs": [tensor(shape=[2, 1])]}, "shape"),
    "shape with zero": ({"inputs": [tensor(shape=[0, 2], data=[])]}, "shape"),
    "shape with a negative": ({"inputs": [tensor(shape=[-1, 2])]}, "shape"),
    "shape with a truth": ({"inputs": [tensor(shape=[True, 2])]}, "shape"),
    "shape of text": ({"inputs": [tensor(shape=["1", "2"])]}, "shape"),
    "a huge shape": ({"inputs": [tensor(shape=[10**30, 2])]}, "do not fill"),
    "no data": ({"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2]}]}, "binary"),
    "too few values": ({"inputs": [tensor(data=[1])]}, "do not fill"),
    "too many values": ({"inputs": [tensor(data=[1, 2, 3])]}, "do not fill"),
    "nested in another shape": ({"inputs": [tensor(data=[[1], [2]])]}, "do not fill"),
    "ragged": ({"inputs": [tensor(shape=[2, 2], data=[[1, 2, 3], [4]])]}, "ragged"),
    "text": ({"inputs": [tensor(data=["1", "2"])]}, "list of numbers"),
    "null": ({"inputs": [tensor(data=[None, 1])]}, "list of numbers"),
    "truths": ({"inputs": [tensor(data=[True, False])]}, "list of numbers"),
    "objects": ({"inputs": [tensor(data=[{}, {}])]}, "list of numbers"),
    "data is a number": ({"inputs": [tensor(data=1)]}, "list of numbers"),
    "data is text": ({"inputs": [tensor(data="12")]}, "list of numbers"),
    "over the range": ({"inputs": [tensor(data=[1e300, 1])]}, "range of FP32"),
    "infinite": (b'{"inputs": [{"name":"x","datatype":"FP32","shape":[1,2],"data":[1e999,1]}]}', "range"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_request_is_refused_in_words(case: str) -> None:
    content, words = BAD[case]
    with pytest.raises(BadRequestError, match=words):
        decoded(content)


@given(st.recursive(st.none() | st.booleans() | st.floats() | st.text(max_size=3), st.lists, max_leaves=8))
def test_whatever_the_data_is_nothing_but_a_refusal_is_raised(data: Any) -> None:
    try:
        decoded({"inputs": [tensor(data=data)]})
    except BadRequestError:
        return
    assert np.asarray(data).size == 2


@pytest.mark.parametrize(
    ("datatype", "data"),
    [
        ("BOOL", [1, 0]),
        ("INT8", [1.0]),
        ("INT8", [128]),
        ("INT8", [-129]),
        ("UINT8", [-1]),
        ("UINT16", [65536]),
        ("INT64", [2**63]),
        ("UINT64", [2**64]),
        ("FP16", [70000]),
    ],
)
def test_values_outside_a_datatype_are_refused(datatype: Datatype, data: list[Any]) -> None:
    with pytest.raises(BadRequestError):
        of(datatype, data)


@pytest.mark.parametrize(
    ("datatype", "data"),
    [
        ("BOOL", [True, False]),
        ("INT8", [-128, 127]),
        ("UINT8", [0, 255]),
        ("INT64", [-(2**63), 2**63 - 1]),
        ("UINT64", [0, 2**64 - 1]),
        ("FP16", [65504, -0.5]),
        ("FP64", [1e300, 3]),
    ],
)
def test_the_ends_of_each_range_arrive(datatype: Datatype, data: list[Any]) -> None:
    array = of(datatype, data)
    assert array.dtype == DTYPES[datatype]
    assert array.tolist() == data


FINITE = st.sampled_from([dtype for dtype in DTYPES.values() if dtype.kind != "b"]).flatmap(
    lambda dtype: hnp.arrays(
        dtype,
        hnp.array_shapes(max_dims=3, max_side=3),
        elements=hnp.from_dtype(dtype, allow_nan=False, allow_infinity=False),
    )
)


@given(FINITE)
def test_an_answer_sent_back_as_an_input_is_the_same_tensor(array: Array) -> None:
    name = next(name for name, dtype in DTYPES.items() if dtype == array.dtype)
    spec = TensorSpec(name="x", datatype=name, shape=array.shape)
    request = decode_request(json.dumps(whole(outputs=[{"name": "a"}])).encode(), (X,), OUTPUTS)
    answer = json.loads(encode_response("m", "1", request, {"a": array}))
    back = decoded({"inputs": [answer["outputs"][0] | {"name": "x"}]}, spec)
    assert back.dtype == array.dtype
    np.testing.assert_array_equal(back, array)


def test_an_answer_names_model_version_and_id() -> None:
    request = decode_request(json.dumps(whole(id="9")).encode(), (X,), OUTPUTS)
    outputs = {"a": np.ones((1, 2), np.float32), "b": np.array([3])}
    answer = json.loads(encode_response("slot", "1.2", request, outputs))
    assert answer == {
        "model_name": "slot",
        "model_version": "1.2",
        "id": "9",
        "outputs": [
            {"name": "a", "datatype": "FP32", "shape": [1, 2], "data": [1.0, 1.0]},
            {"name": "b", "datatype": "INT64", "shape": [1], "data": [3]},
        ],
    }


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_an_answer_that_json_cannot_carry_is_an_error(value: float) -> None:
    request = decode_request(json.dumps(whole(outputs=[{"name": "a"}])).encode(), (X,), OUTPUTS)
    with pytest.raises(UnencodableOutputError):
        encode_response("m", "1", request, {"a": np.array([value])})
