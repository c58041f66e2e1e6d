"""Figures over many windows are those of all values together."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from packhorse_agent.contract.messages import Energy, TelemetryWindow, sketch_to_text
from packhorse_agent.contract.sketch import LatencySketch
from packhorse_host.telemetry.query import ReleaseFigures, release_figures
from tests.fakes.fleet import window
from tests.host.telemetry.conftest import Site
from tests.host.telemetry.test_ingest import sites


def measured(number: int, latencies_us: list[float], **changes: Any) -> TelemetryWindow:
    sketch = LatencySketch()
    for latency_us in latencies_us:
        sketch.add(latency_us)
    values = {"latency_us": sketch_to_text(sketch), "requests": len(latencies_us), **changes}
    return window(number).model_copy(update=values)


def figures(site: Site, **selection: Any) -> list[ReleaseFigures]:
    with site.database.transaction() as connection:
        return release_figures(connection, **selection)


latencies = st.lists(st.lists(st.floats(1.0, 1e7), max_size=20), min_size=1, max_size=8)


@given(latencies)
@settings(max_examples=40)
def test_percentiles_of_merged_windows_are_those_of_one_sketch_of_all(parts: list[list[float]]) -> None:
    whole = LatencySketch()
    with sites() as site:
        senders = [site.enrol("a"), site.enrol("b")]
        for number, part in enumerate(parts):
            for value in part:
                whole.add(value)
            sender = senders[number % 2]
            site.take(sender, sender.seal(number + 1, measured(number, part)))
        (release,) = figures(site)
    assert release.latency_p50_us == whole.quantile_us(0.5)
    assert release.latency_p95_us == whole.quantile_us(0.95)
    assert release.latency_p99_us == whole.quantile_us(0.99)
    assert release.requests == whole.count
    assert release.windows == len(parts)
    assert release.devices == min(len(parts), 2)


def test_without_any_window_there_is_nothing(site: Site) -> None:
    assert figures(site) == []


def test_releases_profiles_and_simulated_devices_never_mix(site: Site) -> None:
    pi, phone = site.enrol("pi"), site.enrol("phone", profile="android-arm64")
    site.take(
        pi,
        pi.seal(
            1,
            measured(1, [1.0], version="1.9"),
            measured(2, [2.0], version="1.10"),
            measured(3, [3.0], version="1.10", simulated=False),
        ),
    )
    site.take(phone, phone.seal(1, measured(1, [4.0], version="1.10")))
    found = [(one.version, one.profile, one.simulated, one.requests) for one in figures(site)]
    assert found == [
        ("1.9", "raspberry-pi-5", True, 1),
        ("1.10", "android-arm64", True, 1),
        ("1.10", "raspberry-pi-5", False, 1),
        ("1.10", "raspberry-pi-5", True, 1),
    ], "in the order of versions"


def test_a_model_a_device_and_a_time_may_be_named(site: Site) -> None:
    one, other = site.enrol("one"), site.enrol("other")
    site.take(one, one.seal(1, measured(1, [1.0]), measured(2, [1.0], model="wake-word")))
    site.take(other, other.seal(1, measured(3, [1.0])))
    assert [one.model for one in figures(site, model="wake-word")] == ["wake-word"]
    assert [one.windows for one in figures(site, device_id="other")] == [1]
    assert [one.windows for one in figures(site, since_unix_s=180)] == [1]
    assert figures(site, since_unix_s=181) == []


def energy(energy_uj: float) -> Energy:
    return Energy(
        source="ina3221:VDD_IN", scope="board", energy_uj=energy_uj, energy_per_inference_uj=None, samples=9
    )


def test_energy_is_that_of_the_windows_that_have_both(site: Site) -> None:
    sender = site.enrol("a")
    site.take(
        sender,
        sender.seal(
            1,
            measured(1, [1.0, 1.0], energy=energy(300.0), energy_reason=""),
            measured(2, [1.0], energy=energy(300.0), energy_reason=""),
            measured(3, [], energy=energy(9_999.0), energy_reason="no requests"),
            measured(4, [1.0] * 50),
        ),
    )
    (release,) = figures(site)
    assert release.energy_per_inference_uj == pytest.approx(200.0)
    assert release.energy_reason == ""


def test_requests_that_reached_no_inference_take_no_part_in_its_energy(site: Site) -> None:
    sender = site.enrol("a")
    refused = measured(
        1, [1.0, 1.0], requests=10, rejected_requests=8, energy=energy(300.0), energy_reason=""
    )
    shared = measured(2, [1.0] * 9, energy=energy(900.0), energy_reason="several models ran")
    site.take(sender, sender.seal(1, refused, shared))
    (release,) = figures(site)
    assert release.energy_per_inference_uj == pytest.approx(150.0)


def test_a_window_of_an_older_agent_is_read(site: Site) -> None:
    """Before clients' faults were counted apart."""
    fields = window(1).model_dump(mode="json")
    del fields["rejected_requests"]
    assert TelemetryWindow.model_validate(fields) == window(1)


def test_no_energy_has_a_reason(site: Site) -> None:
    silent, idle = site.enrol("silent"), site.enrol("idle", profile="android-arm64")
    site.take(
        silent, silent.seal(1, measured(1, [1.0]), measured(2, [1.0], energy_reason="permission denied"))
    )
    site.take(idle, idle.seal(1, measured(1, [], energy=energy(5.0), energy_reason="")))
    by_profile = {one.profile: one for one in figures(site)}
    said = by_profile["raspberry-pi-5"]
    assert said.energy_per_inference_uj is None
    assert said.energy_reason == f"{window(1).energy_reason}; permission denied"
    assert by_profile["android-arm64"].energy_reason == "no requests in any window with an energy figure"


def test_sums_and_the_highest_temperature(site: Site) -> None:
    sender = site.enrol("a")
    site.take(
        sender,
        sender.seal(
            1,
            measured(1, [1.0], errors=2, rejected_requests=5, temperature_c=50.0, dropped_windows=3),
            measured(2, [1.0], errors=1, temperature_c=61.5, dropped_windows=4),
            measured(3, [1.0]),
        ),
    )
    (release,) = figures(site)
    assert (release.errors, release.rejected_requests) == (3, 5)
    assert (release.dropped_windows, release.temperature_max_c) == (7, 61.5)
