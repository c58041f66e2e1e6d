"""Reports read back as they were written, are forward compatible, and refuse what breaks their bounds."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from packhorse_agent.contract.base import canonical_json
from packhorse_agent.contract.errors import MalformedMessageError
from packhorse_agent.contract.limits import REPORT_MAX_ITEMS
from packhorse_agent.contract.messages import (
    DeploymentReport,
    Energy,
    Inventory,
    LinkStatus,
    ProbeResult,
    Report,
    ReportAck,
    ReportItem,
    SlotInventory,
    TelemetryWindow,
    sketch_from_text,
    sketch_to_text,
)
from packhorse_agent.contract.sketch import LatencySketch
from packhorse_agent.contract.states import DeploymentState, FailureReason

NAMES = st.from_regex(r"\A[a-z0-9][a-z0-9._-]{0,62}\Z")
VERSIONS = st.from_regex(r"\A[0-9]{1,9}(\.[0-9]{1,9}){0,3}\Z")
DIGESTS = st.from_regex(r"\A[0-9a-f]{64}\Z")
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
FLOATS = st.floats(allow_nan=False, allow_infinity=False)
COUNTS = st.integers(0, 2**53)
SKETCHES = st.lists(st.floats(0, 1e9), max_size=20)


def sketch_text(values: list[float]) -> str:
    sketch = LatencySketch()
    for value in values:
        sketch.add(value)
    return sketch_to_text(sketch)


ENERGIES = st.builds(
    Energy,
    source=TEXTS,
    scope=st.sampled_from(["rail", "module", "board", "package"]),
    energy_uj=FLOATS,
    energy_per_inference_uj=st.none() | FLOATS,
    samples=COUNTS,
)
WINDOWS = st.builds(
    TelemetryWindow,
    start_unix_s=COUNTS,
    duration_s=st.floats(1e-3, 1e5),
    slot=NAMES,
    model=NAMES,
    version=VERSIONS,
    manifest_sha256=DIGESTS,
    simulated=st.booleans(),
    requests=COUNTS,
    errors=COUNTS,
    rejected_requests=COUNTS,
    latency_us=SKETCHES.map(sketch_text),
    cpu_percent=FLOATS,
    rss_bytes=COUNTS,
    temperature_c=st.none() | FLOATS,
    energy=st.none() | ENERGIES,
    energy_reason=TEXTS,
    dropped_windows=COUNTS,
)
PROBES = st.builds(
    ProbeResult,
    passed=st.booleans(),
    sqnr_db=st.none() | FLOATS,
    agreement_percent=st.none() | FLOATS,
    bit_exact=st.booleans(),
    vectors=COUNTS,
    latency_p50_us=FLOATS,
    detail=TEXTS,
)
DEPLOYMENTS = st.builds(
    DeploymentReport,
    at_unix_ms=COUNTS,
    slot=NAMES,
    rollout_id=NAMES,
    generation=COUNTS,
    model=NAMES,
    version=VERSIONS,
    manifest_sha256=DIGESTS,
    state=st.sampled_from(DeploymentState),
    reason=st.none() | st.sampled_from(FailureReason),
    detail=TEXTS,
    probe=st.none() | PROBES,
    simulated=st.booleans(),
)
SLOTS = st.builds(
    SlotInventory,
    slot=NAMES,
    model=st.none() | NAMES,
    version=st.none() | VERSIONS,
    manifest_sha256=st.none() | DIGESTS,
    serving=st.booleans(),
    endpoint=TEXTS,
)
INVENTORIES = st.builds(
    Inventory,
    at_unix_ms=COUNTS,
    agent_version=TEXTS,
    profile=NAMES,
    detected_profile=st.none() | NAMES,
    simulated=st.booleans(),
    architecture=TEXTS,
    operating_system=TEXTS,
    python_version=TEXTS,
    cpu_model=TEXTS,
    cpu_count=COUNTS,
    memory_bytes=COUNTS,
    storage_free_bytes=COUNTS,
    runtimes=st.dictionaries(NAMES, TEXTS, max_size=3),
    power_sources=st.lists(TEXTS, max_size=3).map(tuple),
    power_reason=TEXTS,
    slots=st.lists(SLOTS, max_size=2).map(tuple),
)
REPORTS = st.builds(
    Report,
    fleet=NAMES,
    device_id=NAMES,
    stream=st.sampled_from(["state", "telemetry"]),
    boot=st.integers(1, 2**53),
    sequence=st.integers(1, 2**53),
    items=st.lists(WINDOWS | DEPLOYMENTS | INVENTORIES, min_size=1, max_size=4).map(tuple),
)
WINDOW = TelemetryWindow(
    start_unix_s=0,
    duration_s=60.0,
    slot="detector",
    model="sample",
    version="1.0",
    manifest_sha256="0" * 64,
    simulated=False,
    requests=0,
    errors=0,
    latency_us=sketch_text([]),
    cpu_percent=0.0,
    rss_bytes=0,
    temperature_c=None,
    energy=None,
    energy_reason="",
)
REPORT = Report(fleet="field", device_id="pi-1", stream="telemetry", boot=1, sequence=1, items=(WINDOW,))


def content(report: Report = REPORT) -> dict[str, Any]:
    return json.loads(canonical_json(report))  # type: ignore[no-any-return]


class TestReports:
    @settings(max_examples=40)
    @given(REPORTS)
    def test_round_trip(self, report: Report) -> None:
        assert Report.model_validate_json(canonical_json(report)) == report

    @settings(max_examples=40)
    @given(REPORTS)
    def test_equal_reports_have_equal_bytes(self, report: Report) -> None:
        again = Report.model_validate_json(canonical_json(report))
        assert canonical_json(again) == canonical_json(report)

    def test_a_newer_devices_unknown_fields_are_ignored(self) -> None:
        newer = content()
        newer["colour"] = "red"
        newer["items"][0]["battery_percent"] = 50
        assert Report.model_validate(newer) == REPORT

    def test_an_older_devices_missing_count_of_losses_is_zero(self) -> None:
        older = content()
        del older["items"][0]["dropped_windows"]
        assert Report.model_validate(older) == REPORT

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("format", 2),
            ("fleet", ""),
            ("fleet", "a/b"),
            ("fleet", "+"),
            ("device_id", "../pi"),
            ("device_id", "Pi 1"),
            ("device_id", "a" * 64),
            ("stream", "events"),
            ("boot", 0),
            ("boot", -1),
            ("sequence", 0),
            ("sequence", 1.5),
            ("boot", 2**53 + 1),
            ("sequence", 10**30),
            ("items", []),
            ("items", [{"kind": "gossip"}]),
            ("items", [{}]),
        ],
    )
    def test_what_breaks_a_bound_is_refused(self, field: str, value: object) -> None:
        with pytest.raises(ValidationError):
            Report.model_validate({**content(), field: value})

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("duration_s", 0),
            ("duration_s", -60),
            ("slot", "a b"),
            ("version", "1.0-beta"),
            ("version", "1.2.3.4.5"),
            ("manifest_sha256", "0" * 63),
            ("manifest_sha256", "A" * 64),
            ("cpu_percent", "NaN"),
            ("energy", {"source": "x"}),
            ("requests", None),
            ("requests", -1),
            ("errors", -1),
            ("rejected_requests", -1),
            ("rss_bytes", 2**63),
            ("dropped_windows", -1),
            ("start_unix_s", -60),
        ],
    )
    def test_a_window_that_breaks_a_bound_is_refused(self, field: str, value: object) -> None:
        with pytest.raises(ValidationError):
            TelemetryWindow.model_validate({**WINDOW.model_dump(), field: value})

    @pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity"])
    def test_numbers_that_are_none_are_refused(self, number: str) -> None:
        text = canonical_json(REPORT).replace(b'"cpu_percent":0.0', f'"cpu_percent":{number}'.encode())
        with pytest.raises(ValidationError):
            Report.model_validate_json(text)

    def test_more_items_than_allowed_are_refused(self) -> None:
        items = [WINDOW.model_dump()] * REPORT_MAX_ITEMS
        assert len(Report.model_validate({**content(), "items": items}).items) == REPORT_MAX_ITEMS
        with pytest.raises(ValidationError):
            Report.model_validate({**content(), "items": [*items, WINDOW.model_dump()]})

    @settings(max_examples=40)
    @given(WINDOWS | DEPLOYMENTS | INVENTORIES)
    def test_the_kind_tells_items_apart(self, item: ReportItem) -> None:
        adapter: TypeAdapter[ReportItem] = TypeAdapter(ReportItem)
        assert type(adapter.validate_json(canonical_json(item))) is type(item)

    def test_reports_cannot_be_changed(self) -> None:
        with pytest.raises(ValidationError):
            REPORT.boot = 2  # type: ignore[misc]


class TestOthers:
    @given(st.sampled_from(["state", "telemetry"]), COUNTS, COUNTS)
    def test_acknowledgements_round_trip(self, stream: Any, boot: int, sequence: int) -> None:
        ack = ReportAck(stream=stream, boot=boot, sequence=sequence)
        assert ReportAck.model_validate_json(canonical_json(ack)) == ack

    @pytest.mark.parametrize("online", [True, False])
    def test_link_status_round_trip(self, online: bool) -> None:
        status = LinkStatus(online=online)
        assert LinkStatus.model_validate_json(canonical_json(status)) == status

    @given(SKETCHES)
    def test_sketches_survive_as_text(self, values: list[float]) -> None:
        sketch = sketch_from_text(sketch_text(values))
        assert sketch_to_text(sketch) == sketch_text(values)
        assert sketch.count == len(values)

    @pytest.mark.parametrize("text", ["", "!", "BQ", "BQAB", "AAAA", "BQABlAEB\n", "\u00fc"])
    def test_text_that_is_no_sketch_is_refused(self, text: str) -> None:
        with pytest.raises(MalformedMessageError):
            sketch_from_text(text)
