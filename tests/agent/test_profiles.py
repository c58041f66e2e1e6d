"""The profiles that come along, and which of them a machine gets."""

from __future__ import annotations

from pathlib import Path

import pytest

from packhorse_agent.contract.profile import PowerSourceKind, Profile
from packhorse_agent.errors import ConfigError, NotFoundError
from packhorse_agent.machine import MachineFacts
from packhorse_agent.profiles import (
    BUILTIN_FOLDER,
    builtin_profiles,
    check_hardware,
    detect_profile,
    find_profile,
    load_profile,
)
from tests.agent.machines import build_root

ARM = MachineFacts("aarch64", "linux", "3.11.2")
PC = MachineFacts("x86_64", "linux", "3.11.2")
PHONE = MachineFacts("aarch64", "android", "3.12.1")
NAMES = [
    "android-arm64",
    "generic-x86_64",
    "jetson-agx-orin",
    "jetson-orin-nano",
    "raspberry-pi-4",
    "raspberry-pi-5",
]


def test_six_profiles_come_along() -> None:
    assert list(builtin_profiles()) == NAMES


@pytest.mark.parametrize("profile", builtin_profiles().values(), ids=NAMES)
def test_every_profile_can_be_served_by_a_runtime_that_is_packed_for(profile: Profile) -> None:
    onnxruntime = next(runtime for runtime in profile.runtimes if runtime.name == "onnxruntime")
    assert onnxruntime.minimum_version == "1.20"


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("jetson")])
def test_a_jetson_runs_jetpack_6(name: str) -> None:
    profile = builtin_profiles()[name]
    assert profile.compatible.minimum_python == "3.10"
    assert {source.kind for source in profile.power_sources} == {PowerSourceKind.INA3221}


def test_the_total_rail_is_never_added_to_its_parts() -> None:
    nano, agx = (
        builtin_profiles()[f"jetson-{name}"].power_sources[0].labels for name in ("orin-nano", "agx-orin")
    )
    assert nano == ("VDD_IN",)
    assert agx == ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0")


@pytest.mark.parametrize(
    ("board", "profile"),
    [
        ("Raspberry Pi 4 Model B Rev 1.4", "raspberry-pi-4"),
        ("Raspberry Pi 400 Rev 1.0", "raspberry-pi-4"),
        ("Raspberry Pi Compute Module 4S Rev 1.0", "raspberry-pi-4"),
        ("Raspberry Pi 5 Model B Rev 1.0", "raspberry-pi-5"),
        ("Raspberry Pi 500 Rev 1.0", "raspberry-pi-5"),
        ("Raspberry Pi Compute Module 5 Rev 1.0", "raspberry-pi-5"),
        ("NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super", "jetson-orin-nano"),
        ("NVIDIA Orin Nano Developer Kit", "jetson-orin-nano"),
        ("NVIDIA Jetson AGX Orin Developer Kit", "jetson-agx-orin"),
        ("NVIDIA Jetson Orin NX Engineering Reference Developer Kit", None),
        ("Raspberry Pi 3 Model B Plus Rev 1.3", None),
        ("My Raspberry Pi 5 Model B", None),
        ("", None),
    ],
)
def test_a_board_is_recognised_by_its_device_tree(tmp_path: Path, board: str, profile: str | None) -> None:
    assert detect_profile(build_root(tmp_path, board=board), ARM) == profile


def test_a_machine_without_a_device_tree_is_known_by_its_architecture(tmp_path: Path) -> None:
    assert detect_profile(tmp_path, PC) == "generic-x86_64"
    assert detect_profile(tmp_path, ARM) is None
    assert detect_profile(tmp_path, MachineFacts("riscv64", "linux", "3.11.2")) is None


def test_a_phone_is_known_by_its_system_even_with_a_device_tree(tmp_path: Path) -> None:
    assert detect_profile(build_root(tmp_path / "a", android=True), PHONE) == "android-arm64"
    root = build_root(tmp_path / "b", android=True, board="Raspberry Pi 5 Model B Rev 1.0")
    assert detect_profile(root, PHONE) == "android-arm64"


def test_a_board_with_a_32_bit_system_is_no_board_of_ours(tmp_path: Path) -> None:
    root = build_root(tmp_path, board="Raspberry Pi 5 Model B Rev 1.0")
    assert detect_profile(root, MachineFacts("armv7l", "linux", "3.11.2")) is None


@pytest.mark.parametrize(
    ("profile", "machine", "problem"),
    [
        ("raspberry-pi-5", ARM, None),
        ("generic-x86_64", PC, None),
        ("android-arm64", PHONE, None),
        ("raspberry-pi-5", PC, "raspberry-pi-5 is for aarch64, this machine is x86_64"),
        ("raspberry-pi-5", PHONE, "raspberry-pi-5 is for linux, this machine runs android"),
        ("android-arm64", ARM, "android-arm64 is for android, this machine runs linux"),
        (
            "raspberry-pi-5",
            MachineFacts("aarch64", "linux", "3.10.12"),
            "raspberry-pi-5 needs Python 3.11, this is 3.10.12",
        ),
    ],
)
def test_why_a_machine_cannot_carry_a_profile(
    profile: str, machine: MachineFacts, problem: str | None
) -> None:
    assert check_hardware(builtin_profiles()[profile], machine) == problem


def test_a_profile_of_ones_own_is_found_by_its_path(tmp_path: Path) -> None:
    text = (BUILTIN_FOLDER / "raspberry-pi-5.toml").read_text()
    path = tmp_path / "my-board.toml"
    path.write_text(text.replace('"raspberry-pi-5"', '"my-board"', 1))
    assert find_profile(str(path)).name == "my-board"
    assert find_profile("raspberry-pi-5") is builtin_profiles()["raspberry-pi-5"]


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(NotFoundError, match=r'no profile "raspbery-pi5"; did you mean "raspberry-pi-5"\?'):
        find_profile("raspbery-pi5")


def test_a_file_is_called_after_its_profile(tmp_path: Path) -> None:
    path = tmp_path / "other.toml"
    path.write_text((BUILTIN_FOLDER / "raspberry-pi-5.toml").read_text())
    with pytest.raises(ConfigError, match=r"call it raspberry-pi-5\.toml"):
        load_profile(path)


def test_a_slip_in_a_profile_names_the_nearest_right_key(tmp_path: Path) -> None:
    path = tmp_path / "raspberry-pi-5.toml"
    text = (BUILTIN_FOLDER / "raspberry-pi-5.toml").read_text()
    path.write_text(text.replace("memory_mib", "memory_mb").replace("minimum_python", "minimum_pyton"))
    with pytest.raises(ConfigError) as caught:
        load_profile(path)
    said = str(caught.value)
    assert 'unknown key "budget.memory_mb"; did you mean "memory_mib"?' in said
    assert 'unknown key "compatible.minimum_pyton"; did you mean "minimum_python"?' in said
