"""The frame of the command line: listings without imports, errors as exit codes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import typer

from packhorse_agent import __version__
from packhorse_agent.contract.exit_codes import ExitCode
from packhorse_agent.contract.messages import SlotInventory
from packhorse_agent.trust.keys import DeviceKey, make_signing_request
from packhorse_host import errors
from packhorse_host.cli import app as app_module
from packhorse_host.cli.lazy import CommandEntry, lazy_group
from packhorse_host.fleet.devices import add_device, store_inventory
from packhorse_host.fleet.opened import open_fleet
from packhorse_host.fleet.rollouts import start_rollout
from packhorse_host.repository import KeyPlan
from packhorse_host.workspace import Workspace
from tests.host.fleet.makers import spec
from tests.host.repository.bundles import make_bundle
from tests.host.telemetry.test_ingest import inventory

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


@pytest.fixture
def complete(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[[str, Path], list[str]]:
    """What bash is offered for the last word of a line, with a workspace in the environment."""

    def ask(line: str, workspace: Path) -> list[str]:
        monkeypatch.setenv("_PACKHORSE_COMPLETE", "complete_bash")
        monkeypatch.setenv("COMP_WORDS", line)
        monkeypatch.setenv("COMP_CWORD", str(line.count(" ")))
        monkeypatch.setenv("PACKHORSE_WORKSPACE", str(workspace))
        with pytest.raises(SystemExit):
            app_module.main([])
        output, errors = capsys.readouterr()
        assert errors == ""
        return output.split()

    return ask


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("packhorse pro", ["profile"]),
        ("packhorse profile sh", ["show"]),
        ("packhorse profile show raspberry-pi-5", ["raspberry-pi-5"]),
        ("packhorse pack m.onnx --profile android", ["android-arm64"]),
        ("packhorse device show c", ["camera"]),
        ("packhorse device remove ", ["camera"]),
        ("packhorse rollout show f", ["first"]),
        ("packhorse rollout start --model d", ["detector"]),
        ("packhorse rollout start --model detector --release 1", ["1.0"]),
        ("packhorse rollout start --recipe s", ["static_wi8_ai8"]),
        ("packhorse rollout start --slot ", ["classifier"]),
        ("packhorse report --model ", ["detector"]),
        ("packhorse trust minimum-version d", ["detector"]),
        ("packhorse trust renew t", ["targets", "timestamp"]),
        ("packhorse device show x", []),
    ],
)
def test_a_shell_is_offered_commands_and_names(
    complete: Callable[[str, Path], list[str]], fleet_folder: Path, line: str, offered: list[str]
) -> None:
    assert complete(line, fleet_folder) == offered


def test_a_shell_is_offered_what_the_named_workspace_holds(
    complete: Callable[[str, Path], list[str]], fleet_folder: Path, tmp_path: Path
) -> None:
    assert complete(f"packhorse device show -w {fleet_folder} ", tmp_path) == ["camera"]


def test_completion_without_a_workspace_offers_nothing(
    complete: Callable[[str, Path], list[str]], tmp_path: Path
) -> None:
    assert complete("packhorse device show ", tmp_path) == []


@pytest.fixture(scope="module")
def fleet_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with a device, a release and a rollout."""
    folder = tmp_path_factory.mktemp("completion")
    workspace = Workspace.create(folder / "fleet", "farm", KeyPlan(1, 1, None))
    workspace.repository().publish([make_bundle(folder / "bundle")])
    key = DeviceKey.load_or_create(folder / "camera.key")
    slot = SlotInventory(
        slot="classifier", model=None, version=None, manifest_sha256=None, serving=False, endpoint=""
    )
    with open_fleet(workspace.folder) as fleet, fleet.database.transaction() as connection:
        add_device(connection, make_signing_request(key, "camera", "raspberry-pi-5"), ["canary"], 1.0)
        store_inventory(connection, "camera", inventory().model_copy(update={"slots": (slot,)}), 2.0)
        start_rollout(connection, spec(), "me", 3.0)
    return workspace.folder


@pytest.mark.parametrize("entry", app_module.COMMANDS, ids=lambda entry: entry.name)
def test_the_help_of_a_command_does_not_offer_to_install_completion(
    entry: CommandEntry, capsys: pytest.CaptureFixture[str]
) -> None:
    run(entry.name, "--help")
    assert "completion" not in capsys.readouterr().out
