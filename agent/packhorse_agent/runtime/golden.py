"""Golden vectors: inputs with reference outputs that a device replays before it trusts a bundle.

The file is a zip of `.npy` members that `numpy.load` reads too: ``input.NAME``, ``fp32.OUTPUT`` (the float
model's outputs) and ``host.OUTPUT`` (the packed model's outputs on the host). The first axis of every array
counts the vectors. Members are stored, not deflated, sorted and dated 1980, so that equal vectors give equal
bytes whatever zlib is installed.
"""

from __future__ import annotations

import io
import math
import re
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, cast

import numpy as np

from packhorse_agent.contract.manifest import ProbeLimits, TensorSpec
from packhorse_agent.contract.messages import ProbeResult
from packhorse_agent.runtime.datatypes import Array, Tensors, datatype_of
from packhorse_agent.runtime.errors import MalformedGoldenError

GOLDEN_MAX_BYTES: Final = 256 * 1024**2
"""A golden file, read into memory whole."""

GOLDEN_MAX_MEMBERS: Final = 192
"""Arrays in a golden file."""

SQNR_FLOOR_DB: Final = -300.0
"""Stands for a signal that is lost entirely: not a number, infinite, or noise without a signal."""

_GROUPS: Final = ("input", "fp32", "host")
_MEMBER = re.compile(rf"({'|'.join(_GROUPS)})\.(.{{1,256}})\.npy", re.DOTALL)
_DATE: Final = (1980, 1, 1, 0, 0, 0)
_UNIX: Final = 3


@dataclass(frozen=True, eq=False)
class GoldenVectors:
    """Inputs and both models' outputs by tensor name; the first axis of every array counts the vectors.

    Raises:
        MalformedGoldenError: no inputs or outputs, outputs that differ between the models, an array of a
            datatype that the inference protocol cannot carry, or counts of vectors that differ.
    """

    inputs: Tensors
    fp32: Tensors
    host: Tensors

    def __post_init__(self) -> None:
        if not self.inputs or not self.fp32:
            raise MalformedGoldenError("golden vectors need inputs and outputs")
        if self.fp32.keys() != self.host.keys():
            raise MalformedGoldenError(
                f"the float model's outputs are {sorted(self.fp32)}, the packed model's {sorted(self.host)}"
            )
        for name, array in self._members():
            if datatype_of(array) is None:
                raise MalformedGoldenError(f"{name} holds {array.dtype}, not a tensor of numbers")
            if array.ndim == 0 or array.shape[0] != self.count or self.count == 0:
                raise MalformedGoldenError(
                    f"{name} has the shape {array.shape}, expected {self.count} vectors"
                )
        for name, reference in self.fp32.items():
            if reference.shape != self.host[name].shape:
                raise MalformedGoldenError(
                    f"fp32.{name} has the shape {reference.shape}, host.{name} {self.host[name].shape}"
                )

    @property
    def count(self) -> int:
        """How many vectors there are."""
        first = next(iter(self.inputs.values()))
        return int(first.shape[0]) if first.ndim else 0

    def _members(self) -> list[tuple[str, Array]]:
        groups = zip(_GROUPS, (self.inputs, self.fp32, self.host), strict=True)
        return [(f"{group}.{name}", array) for group, tensors in groups for name, array in tensors.items()]


@dataclass(frozen=True, eq=False)
class Replay:
    """What a model answered to the golden inputs."""

    outputs: Tensors
    latencies_us: Sequence[float]
    """Of each run; a run is one vector, or as many as the model's fixed batch holds."""


def encode_golden(golden: GoldenVectors) -> bytes:
    """The file's bytes; equal vectors give equal bytes. Law: `decode_golden(encode_golden(g))` equals `g`."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, array in sorted(golden._members(), key=lambda member: member[0]):
            info = zipfile.ZipInfo(f"{name}.npy", _DATE)
            info.create_system = _UNIX
            info.external_attr = 0o644 << 16
            archive.writestr(info, _encode_array(array))
    return buffer.getvalue()


def decode_golden(data: bytes) -> GoldenVectors:
    """Read a golden file; nothing is unpickled, and no array is larger than the bytes it came from.

    Raises:
        MalformedGoldenError: too large, not such a zip, deflated, or arrays that do not belong together.
    """
    if len(data) > GOLDEN_MAX_BYTES:
        raise MalformedGoldenError(f"{len(data)} bytes of golden vectors are over {GOLDEN_MAX_BYTES}")
    groups: dict[str, dict[str, Array]] = {group: {} for group in _GROUPS}
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            for member in _members_of(archive):
                group, name = _split(member.filename)
                groups[group][name] = _decode_array(archive.read(member), member.filename)
    except (zipfile.BadZipFile, ValueError, EOFError, NotImplementedError, RuntimeError) as error:
        raise MalformedGoldenError(f"not a file of golden vectors: {error}") from error
    return GoldenVectors(groups["input"], groups["fp32"], groups["host"])


def write_golden(path: Path, golden: GoldenVectors) -> None:
    """Write a golden file; see `encode_golden`."""
    path.write_bytes(encode_golden(golden))


def read_golden(path: Path) -> GoldenVectors:
    """Read a golden file from disk; see `decode_golden`.

    Raises:
        MalformedGoldenError: as `decode_golden`.
        OSError: the file cannot be read.
    """
    size_bytes = path.stat().st_size
    if size_bytes > GOLDEN_MAX_BYTES:
        raise MalformedGoldenError(f"{size_bytes} bytes of golden vectors are over {GOLDEN_MAX_BYTES}")
    return decode_golden(path.read_bytes())


def replay(
    run: Callable[[Tensors], Tensors],
    inputs: Sequence[TensorSpec],
    golden: GoldenVectors,
    clock: Callable[[], float],
) -> Replay:
    """Run a model on each golden vector; `clock` gives seconds.

    A vector is a batch of one, except for a model whose first dimension is fixed at more: it gets as many.

    Raises:
        MalformedGoldenError: other inputs than the model's, of other datatypes or shapes, or a count of
            vectors that does not fill the model's fixed batch.
    """
    step = check_inputs(inputs, golden)
    parts: list[Tensors] = []
    latencies_us: list[float] = []
    for start in range(0, golden.count, step):
        batch = {name: array[start : start + step] for name, array in golden.inputs.items()}
        begun_s = clock()
        parts.append(run(batch))
        latencies_us.append((clock() - begun_s) * 1e6)
    outputs = {name: _join([part[name] for part in parts], name) for name in parts[0]}
    return Replay(outputs, latencies_us)


def check_inputs(inputs: Sequence[TensorSpec], golden: GoldenVectors) -> int:
    """Hold golden inputs to the model's, and say how many vectors one run takes.

    Raises:
        MalformedGoldenError: they do not fit.
    """
    if golden.inputs.keys() != {spec.name for spec in inputs}:
        names = [spec.name for spec in inputs]
        raise MalformedGoldenError(f"golden vectors are for {sorted(golden.inputs)}, the model takes {names}")
    for spec in inputs:
        array = golden.inputs[spec.name]
        fits = len(spec.shape) == array.ndim and all(
            want in (-1, size) for want, size in zip(spec.shape[1:], array.shape[1:], strict=True)
        )
        if not fits or datatype_of(array) != spec.datatype:
            raise MalformedGoldenError(
                f"golden input {spec.name} is {array.dtype} {array.shape}, "
                f"the model takes {spec.datatype} {spec.shape}"
            )
    step = max(1, *(spec.shape[0] for spec in inputs))
    if golden.count % step:
        raise MalformedGoldenError(f"{golden.count} golden vectors do not fill batches of {step}")
    return step


def sqnr_db(reference: Array, actual: Array) -> float | None:
    """Signal to quantization noise ratio, `10 log10(sum(r^2) / sum((r - a)^2))`, in decibels.

    None when there is no noise at all; `SQNR_FLOOR_DB` at worst, also for values that are not finite.

    Raises:
        ValueError: the shapes differ.
    """
    if reference.shape != actual.shape:
        raise ValueError(f"shapes {reference.shape} and {actual.shape} cannot be compared")
    with np.errstate(over="ignore", invalid="ignore"):
        signal = reference.astype(np.float64)
        noise_power = float(np.sum((signal - actual.astype(np.float64)) ** 2))
        signal_power = float(np.sum(signal**2))
    if noise_power == 0.0:
        return None
    if not math.isfinite(noise_power) or not 0.0 < signal_power < math.inf:
        return SQNR_FLOOR_DB
    return max(10.0 * math.log10(signal_power / noise_power), SQNR_FLOOR_DB)


def worst_sqnr_db(reference: Tensors, actual: Tensors) -> float | None:
    """The lowest SQNR of all outputs in decibels; None when none differs.

    Raises:
        KeyError: `actual` lacks an output.
        ValueError: shapes differ.
    """
    figures = [sqnr_db(array, actual[name]) for name, array in reference.items()]
    return min((figure for figure in figures if figure is not None), default=None)


def agreement_percent(reference: Array, actual: Array, decision_margin: float) -> float | None:
    """How often two models decide alike: the same arg max over all but the first axis, in percent.

    Counted on vectors whose first and second reference score lie at least `decision_margin` apart; None when
    there is none. A vector with values that are not finite in `actual` never agrees.

    Raises:
        ValueError: the shapes differ, or there are fewer than two classes.
    """
    if reference.shape != actual.shape:
        raise ValueError(f"shapes {reference.shape} and {actual.shape} cannot be compared")
    scores = reference.reshape(len(reference), -1).astype(np.float64)
    answers = actual.reshape(len(actual), -1).astype(np.float64)
    if scores.shape[1] < 2:
        raise ValueError("a decision needs at least two classes")
    best = np.partition(scores, -2, axis=1)[:, -2:]
    clear = best[:, 1] - best[:, 0] >= decision_margin
    if not clear.any():
        return None
    alike = (scores.argmax(axis=1) == answers.argmax(axis=1)) & np.isfinite(answers).all(axis=1)
    return float(np.mean(alike[clear]) * 100.0)


def compare(
    golden: GoldenVectors, answer: Replay, limits: ProbeLimits, outputs: Sequence[TensorSpec]
) -> ProbeResult:
    """Judge a replay by the limits of its manifest; the first of `outputs` decides a class."""
    problem = _misfit(golden, answer, limits, outputs)
    if problem:
        return failed_probe(problem, golden.count)
    first = outputs[0].name
    sqnr = worst_sqnr_db(golden.fp32, answer.outputs)
    agreement = (
        agreement_percent(golden.fp32[first], answer.outputs[first], limits.decision_margin)
        if limits.classification
        else None
    )
    failures = _failures(sqnr, agreement, limits)
    return ProbeResult(
        passed=not failures,
        sqnr_db=sqnr,
        agreement_percent=agreement,
        bit_exact=all(np.array_equal(host, answer.outputs[name]) for name, host in golden.host.items()),
        vectors=golden.count,
        latency_p50_us=float(np.median(answer.latencies_us)),
        detail="; ".join(failures),
    )


def failed_probe(detail: str, vectors: int) -> ProbeResult:
    """A probe that could not be judged, which is a failed one."""
    return ProbeResult(
        passed=False,
        sqnr_db=None,
        agreement_percent=None,
        bit_exact=False,
        vectors=vectors,
        latency_p50_us=0.0,
        detail=detail,
    )


def _failures(sqnr: float | None, agreement: float | None, limits: ProbeLimits) -> list[str]:
    failures: list[str] = []
    if sqnr is not None and sqnr < limits.sqnr_min_db:
        failures.append(f"SQNR to FP32 is {sqnr:.1f} dB, the bundle asks for {limits.sqnr_min_db:.1f} dB")
    if agreement is not None and agreement < limits.agreement_min_percent:
        failures.append(
            f"{agreement:.1f} % of the decisions agree with FP32, the bundle asks for "
            f"{limits.agreement_min_percent:.1f} %"
        )
    return failures


def _misfit(
    golden: GoldenVectors, answer: Replay, limits: ProbeLimits, outputs: Sequence[TensorSpec]
) -> str | None:
    if golden.fp32.keys() != {spec.name for spec in outputs}:
        return (
            f"golden vectors are for the outputs {sorted(golden.fp32)}, not {[spec.name for spec in outputs]}"
        )
    if golden.count != limits.vectors:
        return f"the bundle holds {golden.count} golden vectors, its manifest says {limits.vectors}"
    for name, reference in golden.fp32.items():
        actual = answer.outputs.get(name)
        if actual is None or actual.shape != reference.shape:
            found = "missing" if actual is None else f"of shape {actual.shape}"
            return f"output {name} is {found}, the golden vectors have {reference.shape}"
    if limits.classification and golden.fp32[outputs[0].name][0].size < 2:
        return f"output {outputs[0].name} has no two classes to decide between"
    return None


def _join(parts: Sequence[Array], name: str) -> Array:
    shapes = {part.shape[1:] for part in parts if part.ndim}
    if len(shapes) != 1 or any(part.ndim == 0 for part in parts):
        raise MalformedGoldenError(f"output {name} has no vectors along its first axis, or varies in shape")
    return np.concatenate(parts)


def _encode_array(array: Array) -> bytes:
    little = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, little, version=(1, 0), allow_pickle=False)
    return buffer.getvalue()


def _members_of(archive: zipfile.ZipFile) -> list[zipfile.ZipInfo]:
    members = archive.infolist()
    if len(members) > GOLDEN_MAX_MEMBERS or len({member.filename for member in members}) != len(members):
        raise ValueError(f"{len(members)} members, some of them perhaps named twice")
    for member in members:
        if member.compress_type != zipfile.ZIP_STORED or member.file_size != member.compress_size:
            raise ValueError(f"{member.filename} is compressed")
    return members


def _split(filename: str) -> tuple[str, str]:
    match = _MEMBER.fullmatch(filename)
    if match is None:
        raise ValueError(f"unexpected member {filename[:80]!r}")
    return match[1], match[2]


def _decode_array(data: bytes, filename: str) -> Array:
    stream = io.BytesIO(data)
    if np.lib.format.read_magic(stream) != (1, 0):
        raise ValueError(f"{filename} is not an array in version 1.0 of the format")
    shape, fortran, dtype = np.lib.format.read_array_header_1_0(stream)
    if fortran or dtype.hasobject or dtype.names is not None:
        raise ValueError(f"{filename} is not a plain array in C order")
    values = np.frombuffer(data, dtype=dtype, offset=stream.tell())
    native = values.reshape(shape).astype(dtype.newbyteorder("="), copy=False)
    return cast("Array", native)
