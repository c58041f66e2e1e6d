"""`packhorse profile` for people and for programs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from packhorse_agent.contract.exit_codes import ExitCode
from packhorse_agent.contract.profile import Profile
from packhorse_agent.profiles import BUILTIN_FOLDER, builtin_profiles
from packhorse_host.cli.app import main


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["profile", *arguments])
    return int(ended.value.code or 0)


def test_list_is_a_table_with_one_line_a_profile(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("list") == ExitCode.OK
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[2:]] == list(builtin_profiles())
    assert all(line == line.rstrip() for line in lines)


def test_list_as_json_holds_the_profiles_whole(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("list", "--json") == ExitCode.OK
    found = [Profile.model_validate_json(json.dumps(one)) for one in json.loads(capsys.readouterr().out)]
    assert found == list(builtin_profiles().values())


@pytest.mark.parametrize("name", builtin_profiles())
def test_show_says_what_and_why(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("show", name) == ExitCode.OK
    text = capsys.readouterr().out
    profile = builtin_profiles()[name]
    assert profile.title in text
    assert profile.recipe.reason in text


def test_show_as_json_reads_back(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("show", "raspberry-pi-5", "--json") == ExitCode.OK
    assert Profile.model_validate_json(capsys.readouterr().out) == builtin_profiles()["raspberry-pi-5"]


def test_an_unknown_profile_is_not_found(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("show", "raspberry-pi5", "--json") == ExitCode.NOT_FOUND
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(
        'error: there is no profile "raspberry-pi5"; did you mean "raspberry-pi-5"?'
    )


def test_check_accepts_a_good_file(capsys: pytest.CaptureFixture[str]) -> None:
    path = BUILTIN_FOLDER / "generic-x86_64.toml"
    assert run("check", str(path)) == ExitCode.OK
    assert "generic-x86_64 is a valid profile" in capsys.readouterr().out
    assert run("check", str(path), "--json") == ExitCode.OK
    assert json.loads(capsys.readouterr().out)["profile"] == "generic-x86_64"


def test_check_lists_all_faults_of_a_bad_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "bad.toml"
    path.write_text('nme = "bad"\nthreads = "four"\n')
    assert run("check", str(path)) == ExitCode.USAGE
    text = capsys.readouterr().err
    assert 'unknown key "nme"; did you mean "name"?' in text
    assert 'threads = "four": must be a whole number' in text


def test_check_names_a_wrong_file_name_beside_the_other_faults(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('name = "my-board"\nthreds = 4\n')
    assert run("check", str(path)) == ExitCode.USAGE
    text = capsys.readouterr().err
    assert 'unknown key "threds"; did you mean "threads"?' in text
    assert "call it my-board.toml" in text


def test_check_of_a_missing_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("check", str(tmp_path / "none.toml")) == ExitCode.USAGE
    assert "there is no such file" in capsys.readouterr().err
