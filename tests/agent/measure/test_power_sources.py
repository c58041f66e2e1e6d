"""Power sources are found by label on the documented trees, or their absence is explained."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path

import pytest

from packhorse_agent.contract.profile import PowerSource, PowerSourceKind
from packhorse_agent.measure.files import ReadFailedError
from packhorse_agent.measure.power import (
    CounterSample,
    PowerReader,
    PowerSample,
    Unavailable,
    ZoneCounter,
    find_reader,
    probe,
)
from packhorse_agent.profiles import builtin_profiles
from tests.fakes.machine import FakeMachine, agx_orin, orin_nano, x86_two_sockets

AGX_INPUTS = ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0")


def ina3221(*labels: str) -> PowerSource:
    return PowerSource(kind=PowerSourceKind.INA3221, scope="module", labels=labels)


def rapl(*labels: str) -> PowerSource:
    return PowerSource(kind=PowerSourceKind.RAPL, scope="package", labels=labels)


def found(machine: FakeMachine, source: PowerSource) -> PowerReader:
    reader = probe(machine.root, source, machine.read)
    assert not isinstance(reader, Unavailable), reader.reason
    return reader


def reason(machine: FakeMachine, source: PowerSource) -> str:
    answer = probe(machine.root, source, machine.read)
    assert isinstance(answer, Unavailable)
    return answer.reason


class TestIna3221:
    @pytest.mark.parametrize("labels", [(), ("VDD_IN",)])
    def test_orin_nano_reads_its_total_rail(self, tmp_path: Path, labels: tuple[str, ...]) -> None:
        """No labels mean the total; voltage times current; channel 7 and the other rails stay out."""
        machine = orin_nano(tmp_path)
        machine.write("sys/class/hwmon/hwmon4/in1_input", "4912")
        machine.write("sys/class/hwmon/hwmon4/curr1_input", "1208")
        reader = found(machine, ina3221(*labels))
        assert reader.source == "ina3221:VDD_IN"
        assert reader.scope == "module"
        assert reader.read(3.5) == PowerSample(3.5, 4912 * 1208 / 1000)

    def test_the_number_of_the_hwmon_does_not_matter(self, tmp_path: Path) -> None:
        machine = FakeMachine(tmp_path)
        machine.add_ina3221("hwmon12", ("VDD_SOC", "VDD_IN", "VDD_CPU_GPU_CV"))
        machine.write("sys/class/hwmon/hwmon12/curr2_input", "2000")
        assert found(machine, ina3221()).read(0.0) == PowerSample(0.0, 10_000.0)

    def test_agx_orin_sums_the_named_rails_only(self, tmp_path: Path) -> None:
        machine = agx_orin(tmp_path)
        for channel, current_ma in ((1, 3000), (2, 800), (3, 1000)):
            machine.write(f"sys/class/hwmon/hwmon3/curr{channel}_input", str(current_ma))
        reader = found(machine, ina3221(*AGX_INPUTS))
        assert reader.source == "ina3221:VDD_GPU_SOC+VDD_CPU_CV+VIN_SYS_5V0"
        assert reader.read(0.0) == PowerSample(0.0, 24_000.0)

    def test_agx_orin_has_no_total(self, tmp_path: Path) -> None:
        """Without labels there is no figure, and the reason names what there is."""
        text = reason(agx_orin(tmp_path), ina3221())
        assert "0 INA3221 rails are labelled VDD_IN" in text
        assert "VDD_GPU_SOC" in text

    @pytest.mark.parametrize(
        ("machine", "labels", "part"),
        [
            (orin_nano, ("VDD_IN", "VDD_SOC"), "VDD_SOC is a part of VDD_IN"),
            (agx_orin, (*AGX_INPUTS, "VDDQ_VDD2_1V8AO"), "VDDQ_VDD2_1V8AO is a part of VIN_SYS_5V0"),
        ],
    )
    def test_overlapping_rails_are_refused(
        self, tmp_path: Path, machine: Callable[[Path], FakeMachine], labels: tuple[str, ...], part: str
    ) -> None:
        assert part in reason(machine(tmp_path), ina3221(*labels))

    def test_a_disabled_channel_is_refused(self, tmp_path: Path) -> None:
        assert "rail NC is disabled" in reason(agx_orin(tmp_path), ina3221("NC"))

    def test_a_disabled_channel_without_a_label_does_no_harm(self, tmp_path: Path) -> None:
        assert found(agx_orin(tmp_path), ina3221("VDDQ_VDD2_1V8AO")).read(0.0).at_s == 0.0

    def test_a_label_on_two_chips_is_refused(self, tmp_path: Path) -> None:
        machine = orin_nano(tmp_path)
        machine.add_ina3221("hwmon6", ("VDD_IN", None, None))
        assert "2 INA3221 rails are labelled VDD_IN" in reason(machine, ina3221())

    def test_forbidden_files_are_named(self, tmp_path: Path) -> None:
        machine = orin_nano(tmp_path)
        machine.fail("sys/class/hwmon/hwmon4/curr1_input", errno.EACCES)
        text = reason(machine, ina3221())
        assert "VDD_IN cannot be read" in text
        assert "Permission denied" in text

    def test_a_busy_moment_at_the_start_is_no_reason(self, tmp_path: Path) -> None:
        machine = orin_nano(tmp_path)
        machine.fail("sys/class/hwmon/hwmon4/curr1_input", errno.EAGAIN)
        reader = found(machine, ina3221())
        machine.mend("sys/class/hwmon/hwmon4/curr1_input")
        assert isinstance(reader.read(0.0), PowerSample)

    @pytest.mark.parametrize("code", [errno.EAGAIN, errno.ENODATA, errno.EACCES, errno.ENOENT, errno.EIO])
    def test_one_failing_rail_fails_the_whole_sample(self, tmp_path: Path, code: int) -> None:
        """A part of the sum would look like a drop in power."""
        machine = agx_orin(tmp_path)
        reader = found(machine, ina3221(*AGX_INPUTS))
        machine.fail("sys/class/hwmon/hwmon3/in2_input", code)
        with pytest.raises(ReadFailedError, match="in2_input"):
            reader.read(0.0)

    def test_rubbish_in_a_file_fails_the_sample(self, tmp_path: Path) -> None:
        machine = orin_nano(tmp_path)
        reader = found(machine, ina3221())
        machine.write("sys/class/hwmon/hwmon4/in1_input", "n/a")
        with pytest.raises(ReadFailedError, match="no number"):
            reader.read(0.0)

    def test_nothing_there(self, tmp_path: Path) -> None:
        assert reason(FakeMachine(tmp_path), ina3221()) == "no INA3221 under /sys/class/hwmon"


class TestRapl:
    def test_no_labels_mean_every_package_once(self, tmp_path: Path) -> None:
        """Domains inside a package, and the package's second face, are not added again."""
        reader = found(x86_two_sockets(tmp_path), rapl())
        counter = ZoneCounter(1_000_000, 262_143_328_850)
        assert reader.source == "rapl:package-0+package-1"
        assert reader.read(2.0) == CounterSample(2.0, (counter, counter))

    def test_a_label_takes_that_domain_of_every_socket(self, tmp_path: Path) -> None:
        reader = found(x86_two_sockets(tmp_path), rapl("dram"))
        assert reader.source == "rapl:dram+dram"

    def test_dram_lies_outside_the_package(self, tmp_path: Path) -> None:
        reader = found(x86_two_sockets(tmp_path), rapl("package-0", "dram"))
        assert reader.source == "rapl:package-0+dram+dram"

    @pytest.mark.parametrize("labels", [("package-0", "core"), ("package-1", "core", "dram")])
    def test_a_domain_inside_another_is_refused(self, tmp_path: Path, labels: tuple[str, ...]) -> None:
        assert "core is a part of package-" in reason(x86_two_sockets(tmp_path), rapl(*labels))

    def test_the_platform_domain_holds_all_others(self, tmp_path: Path) -> None:
        machine = x86_two_sockets(tmp_path)
        machine.add_rapl("intel-rapl:2", "psys", 5)
        assert "is a part of psys" in reason(machine, rapl("psys", "package-0"))
        assert found(machine, rapl("psys")).source == "rapl:psys"

    def test_an_unknown_label_lists_what_there_is(self, tmp_path: Path) -> None:
        text = reason(x86_two_sockets(tmp_path), rapl("gpu"))
        assert text == "no RAPL domain is named gpu; there are core, dram, package-0, package-1"

    def test_only_root_may_read(self, tmp_path: Path) -> None:
        machine = x86_two_sockets(tmp_path)
        machine.fail("sys/class/powercap/intel-rapl:0/energy_uj", errno.EACCES)
        assert "by root only" in reason(machine, rapl())

    def test_a_missing_range_is_kept_as_unknown(self, tmp_path: Path) -> None:
        machine = FakeMachine(tmp_path)
        machine.add_rapl("intel-rapl:0", "package-0", 7, range_uj=None)
        assert found(machine, rapl()).read(0.0) == CounterSample(0.0, (ZoneCounter(7, None),))

    def test_nothing_there(self, tmp_path: Path) -> None:
        assert "no RAPL domain under /sys/class/powercap" in reason(FakeMachine(tmp_path), rapl())


class TestProfiles:
    @pytest.mark.parametrize("name", sorted(builtin_profiles()))
    def test_an_empty_machine_gets_a_reason_for_every_profile(self, tmp_path: Path, name: str) -> None:
        """So does simulated hardware: nothing is made up."""
        answer = find_reader(tmp_path, builtin_profiles()[name])
        assert isinstance(answer, Unavailable)
        assert answer.reason

    def test_a_source_that_cannot_be_read_yet_is_named(self, tmp_path: Path) -> None:
        profile = builtin_profiles()["raspberry-pi-5"]
        expected = "profile raspberry-pi-5 names pmic, which this agent cannot read yet"
        assert find_reader(tmp_path, profile) == Unavailable(expected)
        assert "pmic" in reason(FakeMachine(tmp_path), profile.power_sources[0])

    def test_reasons_of_all_sources_are_said(self, tmp_path: Path) -> None:
        profile = builtin_profiles()["raspberry-pi-5"]
        both = profile.model_copy(update={"power_sources": (ina3221(), *profile.power_sources)})
        assert find_reader(tmp_path, both) == Unavailable(
            "no INA3221 under /sys/class/hwmon; "
            "profile raspberry-pi-5 names pmic, which this agent cannot read yet"
        )

    def test_the_first_source_that_is_there_wins(self, tmp_path: Path) -> None:
        machine = x86_two_sockets(tmp_path)
        profile = builtin_profiles()["generic-x86_64"]
        both = profile.model_copy(update={"power_sources": (ina3221(), rapl())})
        reader = find_reader(machine.root, both, machine.read)
        assert not isinstance(reader, Unavailable)
        assert reader.source == "rapl:package-0+package-1"

    def test_a_profile_without_sources(self, tmp_path: Path) -> None:
        profile = builtin_profiles()["generic-x86_64"].model_copy(update={"power_sources": ()})
        assert find_reader(tmp_path, profile) == Unavailable("profile generic-x86_64 names no power source")

    @pytest.mark.parametrize(
        ("name", "machine"), [("jetson-orin-nano", orin_nano), ("jetson-agx-orin", agx_orin)]
    )
    def test_the_jetson_profiles_fit_their_boards(
        self, tmp_path: Path, name: str, machine: Callable[[Path], FakeMachine]
    ) -> None:
        board = machine(tmp_path)
        assert not isinstance(find_reader(board.root, builtin_profiles()[name], board.read), Unavailable)
