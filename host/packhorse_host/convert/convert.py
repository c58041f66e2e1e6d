"""From a source of any kind to a float model of one runtime, held against the source's own answers."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import numpy as np
import onnx

from packhorse_agent.contract.manifest import RuntimeRequirement, TensorSpec
from packhorse_agent.contract.profile import RuntimeName
from packhorse_agent.runtime.base import Session, open_model
from packhorse_agent.runtime.datatypes import Array
from packhorse_agent.runtime.golden import worst_sqnr_db
from packhorse_host.convert.building import Progress
from packhorse_host.convert.environments import ENVIRONMENTS
from packhorse_host.convert.errors import ConversionFailedError, UnsupportedConversionError
from packhorse_host.convert.model import FORMATS, FloatModel
from packhorse_host.convert.replay import replay_on
from packhorse_host.convert.sources import Source, SourceKind
from packhorse_host.convert.table import SOURCES, TABLE, Refused, Route, Works
from packhorse_host.errors import EnvironmentFaultError
from packhorse_host.evaluate.vectors import synthesized
from packhorse_host.quantize.errors import ModelError
from packhorse_host.quantize.graph import Level, optimized
from packhorse_host.quantize.litert_graph import is_quantized, read_graph, shorten_names, sign, write_graph
from packhorse_host.quantize.prepare import drop_unused_operator_sets
from packhorse_host.quantize.source import read_source

FIDELITY_MIN_DB: Final = 60.0
"""Other summation orders stay above 100 dB; a wrong operator falls far below."""

_INPUT, _OUTPUT, _EXPORTED = "input/", "output/", "exported/"


@dataclass(frozen=True)
class _Reference:
    """What the source answers in its own framework; arrays by name."""

    inputs: Mapping[str, Array]
    outputs: Mapping[str, Array]


def float_model(source: Source, runtime: RuntimeName, progress: Progress) -> FloatModel:
    """Convert a source for a runtime, by the one way that `TABLE` names.

    Raises:
        UnsupportedConversionError: there is no way; the text says why, and which way is nearest.
        ConversionFailedError: the tool does not take this model, or what it made answers differently.
        ToolEnvironmentError, ToolFailedError: the tool's environment cannot be built, or the tool died.
        ModelError: the model itself is damaged.
    """
    cell = check_convertible(source.kind, runtime)
    model = _ROUTES[cell.route](source, runtime, progress)
    return _tried_on_device_runtime(model, progress) if runtime == "tflite-runtime" else model


def convertible(kind: SourceKind) -> tuple[RuntimeName, ...]:
    """Runtimes that a kind of source is converted for."""
    return tuple(
        runtime for (source, runtime), cell in TABLE.items() if source == kind and isinstance(cell, Works)
    )


def check_convertible(kind: SourceKind, runtime: RuntimeName) -> Works:
    """The way from a kind of source to a runtime.

    Raises:
        UnsupportedConversionError: there is none; the text says why, and which way is nearest.
    """
    cell = TABLE[kind, runtime]
    if isinstance(cell, Refused):
        raise UnsupportedConversionError(
            f"{SOURCES[kind]} is not converted for {runtime}: {cell.reason}; {cell.instead}"
        )
    return cell


def _as_it_is(source: Source, runtime: RuntimeName, _: Progress) -> FloatModel:
    if FORMATS[runtime] == "onnx":
        read = _read_onnx(source.path, runtime)
        return _for_an_engine(read, source) if runtime == "tensorrt" else read
    data = source.path.read_bytes()
    notes = ("is quantized already",) if is_quantized(read_graph(data)) else ()
    return replace(_opened_tflite(data, runtime), notes=notes)


def _for_an_engine(model: FloatModel, source: Source) -> FloatModel:
    """The model, with a batch of one and all lengths fixed where another axis than the batch is free."""
    if all(-1 not in spec.shape[1:] for spec in model.inputs):
        return model
    with tempfile.TemporaryDirectory(prefix="packhorse-") as scratch:
        path = Path(scratch) / "model.onnx"
        path.write_bytes(_fixed_shapes(model.data, source.inputs))
        return _read_onnx(path, model.runtime)


def _onnx_to_tflite(source: Source, runtime: RuntimeName, progress: Progress) -> FloatModel:
    original = read_source(source.path)
    fixed = _fixed_shapes(original.data, source.inputs)
    with tempfile.TemporaryDirectory(prefix="packhorse-") as scratch:
        path = Path(scratch) / "fixed.onnx"
        path.write_bytes(fixed)
        reference = _onnx_answers(path)
        model = _through_torch(replace(source, path=path, inputs=read_source(path).inputs), runtime, progress)
    names = tuple(spec.name for spec in original.inputs), tuple(spec.name for spec in original.outputs)
    return _faithful(_renamed(model, *names), reference, "ONNX Runtime")


def _torch_to_tflite(source: Source, runtime: RuntimeName, progress: Progress) -> FloatModel:
    with tempfile.TemporaryDirectory(prefix="packhorse-") as scratch:
        reference_file = Path(scratch) / "vectors.npz"
        model = _through_torch(source, runtime, progress, reference_file)
        reference = _load_reference(reference_file)
    return _faithful(_renamed(model, list(reference.inputs), list(reference.outputs)), reference, "PyTorch")


def _through_torch(
    source: Source, runtime: RuntimeName, progress: Progress, vectors: Path | None = None
) -> FloatModel:
    progress("converting to .tflite by litert-torch")
    with tempfile.TemporaryDirectory(prefix="packhorse-") as scratch:
        target = Path(scratch) / "model.tflite"
        request = _torch_request(source, target, vectors or Path(scratch) / "vectors.npz")
        ENVIRONMENTS["torch"].call("torch_to_litert", request, progress)
        return _opened_tflite(target.read_bytes(), runtime)


def _onnx_to_exported(source: Source, runtime: RuntimeName, progress: Progress) -> FloatModel:
    original = read_source(source.path)
    with tempfile.TemporaryDirectory(prefix="packhorse-") as scratch:
        path = Path(scratch) / "fixed.onnx"
        path.write_bytes(_fixed_shapes(original.data, source.inputs))
        fixed = _read_onnx(path, "onnxruntime")
        made = _exported(replace(source, path=path, inputs=fixed.inputs), runtime, progress)
        expected = _session(fixed).run(made.inputs)
    names = [spec.name for spec in original.outputs]
    outputs = [
        spec.model_copy(update={"name": name}) for spec, name in zip(made.model.outputs, names, strict=True)
    ]
    model = replace(made.model, outputs=tuple(outputs))
    return _held(model, dict(zip(names, made.answers.values(), strict=True)), expected, "ONNX Runtime")


def _torch_to_exported(source: Source, runtime: RuntimeName, progress: Progress) -> FloatModel:
    made = _exported(source, runtime, progress)
    return _held(made.model, made.answers, made.expected, "PyTorch")


@dataclass(frozen=True)
class _Exported:
    """A program that torch exported, and what it and its source answer to the same inputs."""

    model: FloatModel
    inputs: Mapping[str, Array]
    expected: Mapping[str, Array]
    answers: Mapping[str, Array]


def _exported(source: Source, runtime: RuntimeName, progress: Progress) -> _Exported:
    progress("exporting by torch.export")
    with tempfile.TemporaryDirectory(prefix="packhorse-") as scratch:
        target, vectors = Path(scratch) / "model.pt2", Path(scratch) / "vectors.npz"
        request = _torch_request(source, target, vectors)
        answer = ENVIRONMENTS["torch"].call("torch_to_exported", request, progress)
        inputs = tuple(TensorSpec.model_validate(spec) for spec in answer["inputs"])
        outputs = tuple(TensorSpec.model_validate(spec) for spec in answer["outputs"])
        _check_batch(inputs)
        reference = _load_reference(vectors)
        with np.load(vectors, allow_pickle=False) as arrays:
            answers = {name[len(_EXPORTED) :]: arrays[name] for name in arrays if name.startswith(_EXPORTED)}
        model = FloatModel(target.read_bytes(), runtime, inputs, outputs)
    return _Exported(model, reference.inputs, reference.outputs, answers)


def _torch_to_onnx(source: Source, runtime: RuntimeName, progress: Progress) -> FloatModel:
    progress("converting to ONNX by torch.onnx")
    with tempfile.TemporaryDirectory(prefix="packhorse-") as scratch:
        target, vectors = Path(scratch) / "model.onnx", Path(scratch) / "vectors.npz"
        ENVIRONMENTS["torch"].call("torch_to_onnx", _torch_request(source, target, vectors), progress)
        return _faithful(_read_onnx(target, runtime), _load_reference(vectors), "PyTorch")


def _from_tensorflow(source: Source, runtime: RuntimeName, progress: Progress) -> FloatModel:
    form = FORMATS[runtime]
    progress(f"converting to {form} by {'tf2onnx' if form == 'onnx' else 'TFLiteConverter'}")
    with tempfile.TemporaryDirectory(prefix="packhorse-") as scratch:
        target, vectors = Path(scratch) / f"model.{form}", Path(scratch) / "vectors.npz"
        request = {
            "kind": source.kind, "path": str(source.path), "to": form,
            "model": str(target), "vectors": str(vectors),
        }  # fmt: skip
        ENVIRONMENTS["tensorflow"].call("keras_models", request, progress)
        reference = _load_reference(vectors)
        if form == "onnx":
            return _faithful(_read_onnx(target, runtime), reference, "TensorFlow")
        return _faithful(_opened_tflite(target.read_bytes(), runtime), reference, "TensorFlow")


_ROUTES: Final[Mapping[Route, Callable[[Source, RuntimeName, Progress], FloatModel]]] = MappingProxyType(
    {
        "as-it-is": _as_it_is,
        "onnx-to-exported": _onnx_to_exported,
        "onnx-to-tflite": _onnx_to_tflite,
        "tensorflow-to-onnx": _from_tensorflow,
        "tensorflow-to-tflite": _from_tensorflow,
        "torch-to-exported": _torch_to_exported,
        "torch-to-onnx": _torch_to_onnx,
        "torch-to-tflite": _torch_to_tflite,
    }
)


def _torch_request(source: Source, target: Path, vectors: Path) -> dict[str, Any]:
    return {
        "kind": source.kind,
        "path": str(source.path),
        "reference": source.reference,
        "inputs": [spec.model_dump(mode="json") for spec in source.inputs],
        "model": str(target),
        "vectors": str(vectors),
    }


def _read_onnx(path: Path, runtime: RuntimeName) -> FloatModel:
    read = read_source(path)
    return FloatModel(read.data, runtime, read.inputs, read.outputs)


def _opened_tflite(data: bytes, runtime: RuntimeName) -> FloatModel:
    session = _tflite_session(data)
    _check_batch(session.inputs)
    return FloatModel(data, runtime, session.inputs, session.outputs)


def _tflite_session(data: bytes) -> Session:
    try:
        from packhorse_agent.runtime import litert
    except ImportError as error:
        raise EnvironmentFaultError(
            "converting for LiteRT needs ai-edge-litert: pip install 'packhorse[litert-pack]'"
        ) from error
    with tempfile.TemporaryDirectory(prefix="packhorse-") as scratch:
        path = Path(scratch) / "model.tflite"
        path.write_bytes(data)
        return litert.open_session(path, RuntimeRequirement(name="litert", minimum_version="2.1"))


def _check_batch(specs: Sequence[TensorSpec]) -> None:
    for spec in specs:
        if spec.shape[:1] not in ((-1,), (1,)):
            raise ModelError(
                f"`{spec.name}` has shape {list(spec.shape)}; "
                "its first axis must be the batch, free or of length 1"
            )


def _renamed(model: FloatModel, inputs: Sequence[str], outputs: Sequence[str]) -> FloatModel:
    """With the source's names in the SignatureDef; litert-torch numbers arguments and outputs."""
    graph = read_graph(model.data)
    places = {
        **{f"args_{index}": name for index, name in enumerate(inputs)},
        **{f"output_{index}": name for index, name in enumerate(outputs)},
    }
    sign(
        graph,
        [places.get(spec.name, spec.name) for spec in model.inputs],
        [places.get(spec.name, spec.name) for spec in model.outputs],
    )
    shorten_names(graph)
    return _opened_tflite(write_graph(graph), model.runtime)


def _fixed_shapes(data: bytes, given: Sequence[TensorSpec]) -> bytes:
    """The model with a batch of one and no free axis, folded, so that shapes computed in it are constants.

    Raises:
        ConversionFailedError: an axis is free and nobody gave its length.
    """
    model = onnx.load_model_from_string(data)
    lengths = {spec.name: spec.shape for spec in given}
    constants = {tensor.name for tensor in model.graph.initializer}
    for value in model.graph.input:
        if value.name not in constants:
            _fix_axes(value, lengths.get(value.name, ()))
    for value in model.graph.output:
        _forget_names(value)
    del model.graph.value_info[:]
    fixed = optimized(model.SerializeToString(), Level.BASIC)
    drop_unused_operator_sets(fixed)
    return bytes(fixed.SerializeToString())


def _fix_axes(value: Any, lengths: Sequence[int]) -> None:
    for axis, dimension in enumerate(value.type.tensor_type.shape.dim):
        if dimension.HasField("dim_value") and dimension.dim_value > 0:
            continue
        length = lengths[axis] if axis < len(lengths) else -1
        if axis > 0 and length < 1:
            raise ConversionFailedError(
                f"input `{value.name}` has a free axis {axis}, and what is converted has fixed shapes: "
                "give the input with its lengths, as NAME:DATATYPE:LENGTHS"
            )
        dimension.dim_value = 1 if axis == 0 else length


def _forget_names(value: Any) -> None:
    """Axes that were named after the batch; how long they are now is inferred."""
    for dimension in value.type.tensor_type.shape.dim:
        if not dimension.HasField("dim_value"):
            dimension.Clear()


def _onnx_answers(path: Path) -> _Reference:
    model = _read_onnx(path, "onnxruntime")
    inputs = _made_up(model)
    return _Reference(inputs, _session(model).run(inputs))


def _made_up(model: FloatModel) -> Mapping[str, Array]:
    """One sample.

    Raises:
        ConversionFailedError: an axis but the first is free.
    """
    if (samples := synthesized(model.inputs, 1)) is None:
        raise ConversionFailedError("the model has a free axis besides the batch: fix its length")
    return samples.arrays


def _load_reference(path: Path) -> _Reference:
    with np.load(path, allow_pickle=False) as arrays:
        return _Reference(
            {name[len(_INPUT) :]: arrays[name] for name in arrays if name.startswith(_INPUT)},
            {name[len(_OUTPUT) :]: arrays[name] for name in arrays if name.startswith(_OUTPUT)},
        )


def _session(model: FloatModel) -> Session:
    if FORMATS[model.runtime] == "tflite":
        return _tflite_session(model.data)
    with tempfile.TemporaryDirectory(prefix="packhorse-") as scratch:
        path = Path(scratch) / "model.onnx"
        path.write_bytes(model.data)
        requirement = RuntimeRequirement(name="onnxruntime", minimum_version="1.20")
        return open_model(path, requirement, model.inputs, model.outputs)


def _faithful(model: FloatModel, reference: _Reference, framework: str) -> FloatModel:
    """Hold a converted model against its source.

    Raises:
        ConversionFailedError: other outputs, or other values in them.
    """
    answers = _session(model).run(_by_place(model.inputs, reference.inputs))
    return _held(model, answers, _by_place(model.outputs, reference.outputs), framework)


def _held(
    model: FloatModel, answers: Mapping[str, Array], expected: Mapping[str, Array], framework: str
) -> FloatModel:
    shapes = {name: (array.shape, answers[name].shape) for name, array in expected.items()}
    wrong = [f"{name} {ours} for {theirs}" for name, (theirs, ours) in shapes.items() if ours != theirs]
    if wrong:
        raise ConversionFailedError(f"the converted model gives other shapes: {', '.join(wrong)}")
    sqnr_db = worst_sqnr_db(expected, answers)
    if sqnr_db is not None and sqnr_db < FIDELITY_MIN_DB:
        raise ConversionFailedError(
            f"the converted model answers differently from {framework}: "
            f"{sqnr_db:.1f} dB, at least {FIDELITY_MIN_DB:.0f} are expected"
        )
    return replace(model, sqnr_db=sqnr_db)


def _by_place(specs: Sequence[TensorSpec], arrays: Mapping[str, Array]) -> dict[str, Array]:
    """Arrays under the model's names: by name where they agree, else by order."""
    if {spec.name for spec in specs} == set(arrays):
        return dict(arrays)
    if len(specs) != len(arrays):
        raise ConversionFailedError(
            f"the converted model has {len(specs)} tensors where the source has {len(arrays)}"
        )
    return {spec.name: array for spec, array in zip(specs, arrays.values(), strict=True)}


def _tried_on_device_runtime(model: FloatModel, progress: Progress) -> FloatModel:
    progress("trying it on tflite-runtime")
    vectors = _made_up(model)
    here = _tflite_session(model.data).run(vectors)
    there = replay_on("tflite-runtime", model.data, model.inputs, model.outputs, vectors, progress)
    sqnr_db = worst_sqnr_db(here, there)
    if sqnr_db is not None and sqnr_db < FIDELITY_MIN_DB:
        raise ConversionFailedError(f"tflite-runtime answers differently from LiteRT: {sqnr_db:.1f} dB")
    return model
