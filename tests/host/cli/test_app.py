"""The frame of the command line: listings without imports, errors as exit codes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import pytest
import typer

from packhorse_agent import __version__
from packhorse_agent.contract.exit_codes import ExitCode
from packhorse_host import errors
from packhorse_host.cli import app as app_module
from packhorse_host.cli.lazy import CommandEntry, lazy_group

HEAVY = ("numpy", "onnx", "onnxruntime", "pydantic", "rich", "sqlalchemy", "tuf", "amqtt", "paho")
FAULTS = [
    (errors.ConfigError("config"), ExitCode.USAGE),
    (errors.BadInputError("input"), ExitCode.BAD_INPUT),
    (errors.RefusedError("refused"), ExitCode.REFUSED),
    (errors.UntrustedError("untrusted"), ExitCode.UNTRUSTED),
    (errors.EnvironmentFaultError("environment"), ExitCode.ENVIRONMENT),
    (errors.ConflictError("conflict"), ExitCode.CONFLICT),
    (errors.NotFoundError("not found"), ExitCode.NOT_FOUND),
    (OSError(28, "No space left on device"), ExitCode.ENVIRONMENT),
    (KeyboardInterrupt(), ExitCode.INTERRUPTED),
    (typer.Exit(ExitCode.REFUSED), ExitCode.REFUSED),
    (ValueError("surprise"), ExitCode.BUG),
]


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        app_module.main(arguments)
    return int(ended.value.code or 0)


@pytest.fixture
def command_that(monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException], None]:
    """Put one command `fault` in place of all others; it raises what it is given."""

    def install(fault: BaseException) -> None:
        def raise_it() -> None:
            raise fault

        monkeypatch.setattr(sys.modules[__name__], "raising", raise_it, raising=False)
        entry = CommandEntry("fault", __name__, "raising", "Raise it.")
        broken = typer.Typer(cls=lazy_group([entry]), rich_markup_mode=None, pretty_exceptions_enable=False)
        broken.callback()(lambda: None)
        monkeypatch.setattr(app_module, "app", broken)

    return install


def test_help_lists_every_command_with_examples(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--help") == ExitCode.OK
    text = capsys.readouterr().out
    assert "Examples:" in text
    for entry in app_module.COMMANDS:
        assert f"{entry.name} " in text
        assert entry.help in text


def test_the_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--version") == ExitCode.OK
    assert capsys.readouterr().out == f"packhorse {__version__}\n"


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom packhorse_host.cli.app import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"


@pytest.mark.parametrize("arguments", [["pck"], ["--nonsense"], ["profile", "lst"], ["profile", "show"]])
def test_a_wrong_command_line_is_a_usage_error(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*arguments) == ExitCode.USAGE
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "Usage: packhorse" in captured.err


def test_a_slip_in_a_command_is_answered_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    run("pck")
    assert "Did you mean 'pack'?" in capsys.readouterr().err


@pytest.mark.parametrize(("fault", "code"), FAULTS, ids=[type(fault).__name__ for fault, _ in FAULTS])
def test_an_error_becomes_its_exit_code(
    command_that: Callable[[BaseException], None], fault: BaseException, code: ExitCode
) -> None:
    command_that(fault)
    assert run("fault") == code


def test_an_error_is_one_line_on_standard_error(
    command_that: Callable[[BaseException], None], capsys: pytest.CaptureFixture[str]
) -> None:
    command_that(errors.NotFoundError('there is no device "d9"'))
    run("fault")
    assert capsys.readouterr() == ("", 'error: there is no device "d9"\n')


def test_a_defect_shows_where_it_is(
    command_that: Callable[[BaseException], None], capsys: pytest.CaptureFixture[str]
) -> None:
    command_that(ValueError("surprise"))
    run("fault")
    text = capsys.readouterr().err
    assert "Traceback" in text
    assert "error: a defect in Packhorse, please report it: ValueError('surprise')" in text


@pytest.mark.parametrize("entry", app_module.COMMANDS, ids=lambda entry: entry.name)
def test_every_listed_command_has_help_of_its_own(
    entry: CommandEntry, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(entry.name, "--help") == ExitCode.OK
    assert f"Usage: packhorse {entry.name}" in capsys.readouterr().out


def test_a_shell_completes_commands_and_their_options() -> None:
    def complete(line: str) -> str:
        environment = {
            "_PACKHORSE_COMPLETE": "complete_bash",
            "COMP_WORDS": line,
            "COMP_CWORD": str(line.count(" ")),
        }
        code = "from packhorse_host.cli.app import main; main()"
        done = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
        )
        return done.stdout

    assert complete("packhorse pro").split() == ["profile"]
    assert complete("packhorse profile sh").split() == ["show"]
