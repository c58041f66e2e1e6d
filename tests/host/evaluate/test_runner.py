"""Models run over data sets as a device opens them."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper

from packhorse_agent.contract.manifest import RuntimeRequirement, TensorSpec
from packhorse_agent.runtime.errors import RuntimeMissingError
from packhorse_host.evaluate.errors import DataMismatchError
from packhorse_host.evaluate.runner import open_session, run_all
from packhorse_host.evaluate.samples import ArraySamples
from tests.host.float_models import IMAGE, LOGITS, cnn, image_samples

REQUIREMENT = RuntimeRequirement(name="onnxruntime", minimum_version="1.20")


def test_batches_answer_like_single_samples() -> None:
    """Also the last, partial one; the answers come in the order of the samples."""
    session = open_session(cnn().SerializeToString(), REQUIREMENT, [IMAGE], [LOGITS])
    samples = image_samples(37)
    together = run_all(session, samples, 8, ["logits"])["logits"]
    alone = run_all(session, samples, 1, ["logits"])["logits"]
    assert together.shape == (37, 4)
    np.testing.assert_allclose(together, alone, rtol=1e-4, atol=1e-5)


def test_a_profile_of_another_accelerator_runs_on_the_cpu() -> None:
    """The host checks numbers; it need not have the device's accelerator."""
    requirement = REQUIREMENT.model_copy(update={"providers": ("QNNExecutionProvider",)})
    session = open_session(cnn().SerializeToString(), requirement, [IMAGE], [LOGITS])
    assert session.provider == "CPUExecutionProvider"


def test_a_runtime_that_is_too_old() -> None:
    requirement = REQUIREMENT.model_copy(update={"minimum_version": "99.0"})
    with pytest.raises(RuntimeMissingError, match=r"99\.0"):
        open_session(cnn().SerializeToString(), requirement, [IMAGE], [LOGITS])


def test_an_output_that_does_not_count_samples() -> None:
    """The sum over the batch is no answer for each sample."""
    graph = helper.make_graph(
        [helper.make_node("ReduceSum", ["x"], ["y"], keepdims=1)],
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 1])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    x = TensorSpec(name="x", datatype="FP32", shape=(-1, 2))
    y = TensorSpec(name="y", datatype="FP32", shape=(1, 1))
    session = open_session(model.SerializeToString(), REQUIREMENT, [x], [y])
    with pytest.raises(DataMismatchError, match=r"`y` has shape \[1, 1\] for 4 samples"):
        run_all(session, ArraySamples({"x": np.ones((8, 2), np.float32)}), 4, ["y"])
