"""What devices report: inventory, deployment states and telemetry windows."""

from __future__ import annotations

import base64
from typing import Annotated, Literal

from pydantic import Field

from packhorse_agent.contract.base import Name, Sha256Hex, Version, WireDocument
from packhorse_agent.contract.errors import MalformedMessageError
from packhorse_agent.contract.limits import REPORT_MAX_ITEMS
from packhorse_agent.contract.sketch import LatencySketch
from packhorse_agent.contract.states import DeploymentState, FailureReason

Stream = Literal["state", "telemetry"]
"""Reports are numbered and kept per stream, so that a backlog of telemetry never delays a state."""

Count = Annotated[int, Field(ge=0, le=2**53)]
"""A number that fits the columns of every database and the numbers of every JSON reader."""


class SlotInventory(WireDocument):
    """What one slot serves now."""

    slot: Name
    model: Name | None
    version: Version | None
    manifest_sha256: Sha256Hex | None
    serving: bool
    endpoint: str
    """URL of the slot's HTTP listener, or `unix:` and the path of its socket."""


class Inventory(WireDocument):
    """Facts that a device reports about itself."""

    kind: Literal["inventory"] = "inventory"
    at_unix_ms: Count
    agent_version: str
    profile: Name
    detected_profile: Name | None
    simulated: bool
    architecture: str
    operating_system: str
    python_version: str
    cpu_model: str
    cpu_count: Count
    memory_bytes: Count
    storage_free_bytes: Count
    runtimes: dict[str, str]
    """Runtime → installed version."""
    power_sources: tuple[str, ...]
    power_reason: str
    """Why there is no power source; empty when there is one."""
    slots: tuple[SlotInventory, ...]


class ProbeResult(WireDocument):
    """How the golden vectors came out on this hardware."""

    passed: bool
    sqnr_db: float | None
    """None: no difference at all to the FP32 reference."""
    agreement_percent: float | None
    """None: no vector with a decision margin, or free outputs."""
    bit_exact: bool
    """Equal to the host's own quantized outputs; recorded, never required."""
    vectors: Count
    latency_p50_us: float
    detail: str


class DeploymentReport(WireDocument):
    """A change of state of one bundle on one device."""

    kind: Literal["deployment"] = "deployment"
    at_unix_ms: Count
    slot: Name
    rollout_id: Name
    generation: Count
    model: Name
    version: Version
    manifest_sha256: Sha256Hex
    state: DeploymentState
    reason: FailureReason | None = None
    detail: str = ""
    probe: ProbeResult | None = None
    simulated: bool


class Energy(WireDocument):
    """Energy over a window."""

    source: str
    """Reader and label, such as `ina3221:VDD_IN`."""
    scope: Literal["rail", "module", "board", "package"]
    energy_uj: float
    energy_per_inference_uj: float | None
    """Gross energy divided by inferences; None when there were none."""
    samples: Count


class TelemetryWindow(WireDocument):
    """What one slot did in one aligned window of time."""

    kind: Literal["window"] = "window"
    start_unix_s: Count
    duration_s: Annotated[float, Field(gt=0)]
    slot: Name
    model: Name
    version: Version
    manifest_sha256: Sha256Hex
    simulated: bool
    requests: Count
    errors: Count
    """Requests that failed on the device: 5xx, failures of the runtime."""
    rejected_requests: Count = 0
    """Requests that were refused because of what a client sent: 4xx. Not among `errors`."""
    latency_us: str
    """`LatencySketch.encode`, base64: time inside the runtime, request by request."""
    cpu_percent: float
    """Of one core, the worker alone."""
    rss_bytes: Count
    temperature_c: float | None
    energy: Energy | None
    energy_reason: str
    """Why `energy`, or its part per inference, is absent; empty when it is there."""
    dropped_windows: Count = 0
    """Windows that the spool gave up since the last one it could keep."""


ReportItem = Annotated[Inventory | DeploymentReport | TelemetryWindow, Field(discriminator="kind")]


class ReportHeader(WireDocument):
    """Whose report it is and its number; every format to come keeps these fields.

    A host that cannot read the rest of a genuine report can so acknowledge it: it must not stand in the way
    of those that come after it.
    """

    fleet: Name
    device_id: Name
    stream: Stream
    boot: Annotated[Count, Field(ge=1)]
    """Counts the starts of the agent; durable, so that an old report never looks new."""
    sequence: Annotated[Count, Field(ge=1)]
    """Counts the reports of a stream within a boot."""


class Report(ReportHeader):
    """The signed content: items of one device, numbered so that none counts twice."""

    format: Literal[1] = 1
    items: Annotated[tuple[ReportItem, ...], Field(min_length=1, max_length=REPORT_MAX_ITEMS)]


class ReportAck(WireDocument):
    """All reports of a stream up to and including this one are stored."""

    format: Literal[1] = 1
    stream: Stream
    boot: Count
    sequence: Count


class LinkStatus(WireDocument):
    """Whether a device is connected; unsigned, shown and never decided on."""

    format: Literal[1] = 1
    online: bool


def sketch_to_text(sketch: LatencySketch) -> str:
    """A sketch as base64 for JSON."""
    return base64.b64encode(sketch.encode()).decode()


def sketch_from_text(text: str) -> LatencySketch:
    """Read a sketch out of JSON.

    Raises:
        MalformedMessageError: not base64, or not a sketch.
    """
    try:
        encoded = base64.b64decode(text, validate=True)
    except ValueError as error:
        raise MalformedMessageError(f"sketch is not base64: {error}") from error
    return LatencySketch.decode(encoded)
