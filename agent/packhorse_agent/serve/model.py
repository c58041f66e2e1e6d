"""A loaded model: what the protocol says about it, and its inferences."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

from pydantic import ValidationError

from packhorse_agent.contract.limits import MANIFEST_MAX_BYTES
from packhorse_agent.contract.manifest import ArtifactRole, Manifest, TensorSpec
from packhorse_agent.contract.messages import ProbeResult
from packhorse_agent.errors import AgentError, BadInputError
from packhorse_agent.runtime.base import Session, open_model
from packhorse_agent.runtime.errors import InferenceFailedError, InputRefusedError, ModelLoadError
from packhorse_agent.runtime.golden import GoldenVectors, check_inputs, read_golden
from packhorse_agent.serve.messages import Response, error_response
from packhorse_agent.serve.openinference import (
    BadRequestError,
    JsonObject,
    UnencodableOutputError,
    decode_request,
    encode_response,
)
from packhorse_agent.serve.probe import probe
from packhorse_agent.serve.protocol import Load

_log = logging.getLogger(__name__)

_STATUS_BY_ERROR: Final[dict[type[AgentError], HTTPStatus]] = {
    BadRequestError: HTTPStatus.BAD_REQUEST,
    InputRefusedError: HTTPStatus.BAD_REQUEST,
    UnencodableOutputError: HTTPStatus.INTERNAL_SERVER_ERROR,
    InferenceFailedError: HTTPStatus.INTERNAL_SERVER_ERROR,
}


@dataclass(frozen=True)
class Inference:
    """An answered request for inference."""

    response: Response
    runtime_us: float | None
    """Time inside the runtime; None when it was not reached or failed."""


@dataclass(frozen=True)
class LoadTimes:
    """How long it took until the model answered."""

    load_ms: float
    first_inference_us: float


@dataclass(frozen=True)
class LoadedModel:
    """One model in its slot, used by one thread at a time."""

    slot: str
    version: str
    manifest: Manifest
    session: Session
    golden: GoldenVectors
    times: LoadTimes

    def describe(self) -> JsonObject:
        """Model metadata of the Open Inference Protocol; model name = slot, version = release."""
        return {
            "name": self.slot,
            "versions": [self.version],
            "platform": self.manifest.runtime.name,
            "inputs": [_describe(spec) for spec in self.manifest.inputs],
            "outputs": [_describe(spec) for spec in self.manifest.outputs],
        }

    def infer(self, body: bytes) -> Inference:
        """Answer a request for inference; never raises, whatever comes."""
        runtime_us = None
        try:
            request = decode_request(body, self.manifest.inputs, self.manifest.outputs)
            begun_s = time.perf_counter()
            outputs = self.session.run(request.inputs)
            runtime_us = (time.perf_counter() - begun_s) * 1e6
            answer = encode_response(self.slot, self.version, request, outputs)
        except AgentError as error:
            status = _STATUS_BY_ERROR.get(type(error), HTTPStatus.INTERNAL_SERVER_ERROR)
            return Inference(error_response(status, str(error)), runtime_us)
        except Exception as error:  # one request must not end the worker
            _log.exception("an inference failed")
            text = f"internal error: {type(error).__name__}"
            return Inference(error_response(HTTPStatus.INTERNAL_SERVER_ERROR, text), runtime_us)
        return Inference(Response(HTTPStatus.OK, answer), runtime_us)

    def probe(self) -> ProbeResult:
        """Replay the golden vectors."""
        return probe(self.session, self.golden, self.manifest)


def load_model(command: Load) -> LoadedModel:
    """Read a bundle's manifest, model and golden vectors, and run the first vector.

    Raises:
        AgentError: any of them is wrong or missing, or the runtime is; the text says which.
    """
    begun_s = time.perf_counter()
    try:
        manifest = _read_manifest(command)
        requirement, inputs, outputs = manifest.runtime, manifest.inputs, manifest.outputs
        session = open_model(command.artifacts[ArtifactRole.MODEL], requirement, inputs, outputs)
        load_ms = (time.perf_counter() - begun_s) * 1e3
        golden = read_golden(command.artifacts[ArtifactRole.GOLDEN])
    except KeyError as error:
        raise BadInputError(f"the bundle has no {error.args[0].value} artifact") from error
    except OSError as error:
        raise BadInputError(f"an artifact cannot be read: {error}") from error
    first_us = _first_inference_us(session, golden)
    times = LoadTimes(load_ms, first_us)
    return LoadedModel(command.slot, command.version, manifest, session, golden, times)


def _read_manifest(command: Load) -> Manifest:
    with command.manifest_path.open("rb") as file:
        data = file.read(MANIFEST_MAX_BYTES + 1)
    if len(data) > MANIFEST_MAX_BYTES:
        raise BadInputError(f"the manifest is over {MANIFEST_MAX_BYTES} bytes")
    try:
        return Manifest.model_validate_json(data)
    except ValidationError as error:
        raise BadInputError(f"the manifest is not valid: {error.errors()[0]['msg']}") from error


def _first_inference_us(session: Session, golden: GoldenVectors) -> float:
    step = check_inputs(session.inputs, golden)
    begun_s = time.perf_counter()
    try:
        session.run({name: array[:step] for name, array in golden.inputs.items()})
    except AgentError as error:
        raise ModelLoadError(f"the model does not run: {error}") from error
    return (time.perf_counter() - begun_s) * 1e6


def _describe(spec: TensorSpec) -> JsonObject:
    return {"name": spec.name, "datatype": spec.datatype, "shape": list(spec.shape)}
