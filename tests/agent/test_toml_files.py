"""Faults in files that people write are all named, with what was most likely meant."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import Field

from packhorse_agent.contract.base import HumanDocument, Name
from packhorse_agent.contract.exit_codes import ExitCode
from packhorse_agent.errors import ConfigError
from packhorse_agent.toml_files import TOML_MAX_BYTES, nearest, read_toml


class Wheel(HumanDocument):
    kind: Literal["wood", "rubber"]
    spokes: Annotated[int, Field(ge=3)] = 12


class Cart(HumanDocument):
    owner: str
    load_kg: float = 0.0
    braked: bool = False
    wheels: tuple[Wheel, ...] = ()
    spare: Wheel | None = None
    horses: dict[Name, Wheel] = Field(default_factory=dict)


def write(folder: Path, text: str | bytes) -> Path:
    path = folder / "cart.toml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def fault(folder: Path, text: str | bytes) -> str:
    """What is said of a file, without the path before it."""
    path = write(folder, text)
    with pytest.raises(ConfigError) as caught:
        read_toml(path, Cart)
    assert caught.value.exit_code == ExitCode.USAGE
    said = str(caught.value)
    assert said.startswith(f"{path}: ")
    return said.removeprefix(f"{path}: ")


def test_a_good_file_is_read(tmp_path: Path) -> None:
    path = write(tmp_path, 'owner = "Ann"\nload_kg = 3\n[[wheels]]\nkind = "wood"\n')
    assert read_toml(path, Cart) == Cart(owner="Ann", load_kg=3.0, wheels=(Wheel(kind="wood"),))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('ownr = "Ann"', 'unknown key "ownr"; did you mean "owner"?'),
        ("zzz = 1", 'unknown key "zzz"; known keys: braked, horses, load_kg, owner, spare, wheels'),
        ('[[wheels]]\nknd = "wood"', 'unknown key "wheels[0].knd"; did you mean "kind"?'),
        ('[spare]\nkind = "wood"\nspoks = 4', 'unknown key "spare.spoks"; did you mean "spokes"?'),
        ('[horses.bob]\nkidn = "wood"', 'unknown key "horses.bob.kidn"; did you mean "kind"?'),
        (
            '[[wheels]]\nkind = "woood"',
            'wheels[0].kind = "woood" is none of the known values; did you mean "wood"?',
        ),
        (
            '[[wheels]]\nkind = "steel"',
            'wheels[0].kind = "steel" is none of the known values; one of: wood, rubber',
        ),
        ("owner = 3", "owner = 3: must be text in quotes"),
        ('load_kg = "3"', 'load_kg = "3": must be a number'),
        ('braked = "yes"', 'braked = "yes": must be true or false'),
        ("wheels = 4", "wheels = 4: must be a list in square brackets"),
        ("spare = 4", "spare = 4: must be a table"),
        ('[spare]\nkind = "wood"\nspokes = 4.5', "spare.spokes = 4.5: must be a whole number"),
        (
            '[spare]\nkind = "wood"\nspokes = 2',
            "spare.spokes = 2: Input should be greater than or equal to 3",
        ),
        ('[horses."Big Bob"]\nkind = "wood"', 'horses.Big Bob: "Big Bob" does not have the form'),
        ("load_kg = inf", "load_kg = inf: Input should be a finite number"),
    ],
)
def test_a_fault_is_named_with_its_key_and_the_nearest_right_one(
    tmp_path: Path, text: str, said: str
) -> None:
    head = "" if text.startswith("own") else 'owner = "Ann"\n'
    assert said in fault(tmp_path, head + text)


def test_a_missing_key_is_named_with_the_advice_that_there_is(tmp_path: Path) -> None:
    path = write(tmp_path, "")
    with pytest.raises(ConfigError, match=r'key "owner" is missing; it is you$'):
        read_toml(path, Cart, {"owner": "it is you"})
    assert fault(tmp_path, "") == 'key "owner" is missing'


def test_all_faults_of_a_file_are_listed_one_a_line(tmp_path: Path) -> None:
    lines = fault(tmp_path, 'ownr = "Ann"\nbraked = 1\n').splitlines()
    assert len(lines) == 3


def test_a_bad_element_is_not_reported_again_as_a_short_list(tmp_path: Path) -> None:
    assert len(fault(tmp_path, 'owner = "Ann"\n[[wheels]]\nkind = 3').splitlines()) == 1


@pytest.mark.parametrize("text", ["owner = ", "owner = Ann", "[wheels", "\0", "a = 1\na = 2"])
def test_a_file_that_is_not_toml_says_where(tmp_path: Path, text: str) -> None:
    assert fault(tmp_path, text).startswith("not TOML: ")


def test_bytes_that_are_not_text(tmp_path: Path) -> None:
    assert fault(tmp_path, b'owner = "\xff\xfe"') == "not TOML: not UTF-8 text"


def test_a_file_beyond_all_bounds_is_not_parsed(tmp_path: Path) -> None:
    assert "larger than" in fault(tmp_path, b"#" * (TOML_MAX_BYTES + 1))


def test_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no such file"):
        read_toml(tmp_path / "none.toml", Cart)
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        read_toml(tmp_path, Cart)


def test_a_long_value_is_cut_in_the_message(tmp_path: Path) -> None:
    assert len(fault(tmp_path, f'owner = "Ann"\nbraked = "{"x" * 5000}"')) < 200


@pytest.mark.parametrize(
    ("word", "said"), [("raspbery-pi-5", '; did you mean "raspberry-pi-5"?'), ("zzz", "")]
)
def test_the_nearest_choice(word: str, said: str) -> None:
    assert nearest(word, ["raspberry-pi-5", "jetson-orin-nano"]) == said
