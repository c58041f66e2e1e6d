"""Which rounding a profile's runtime does, and what is said where torch is not."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from packhorse_agent.profiles import builtin_profiles
from packhorse_host.errors import ConfigError, EnvironmentFaultError
from packhorse_host.quantize.qat import Scheme, save, scheme_for, train_quantized


def test_every_profile_has_a_scheme() -> None:
    for profile in builtin_profiles().values():
        assert scheme_for(profile).per_channel


def test_importing_it_needs_no_torch() -> None:
    heavy = "{'torch', 'torchao', 'executorch'}"
    code = f"import sys, packhorse_host.quantize.qat; assert not {heavy} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.skipif(importlib.util.find_spec("torch") is not None, reason="torch is installed here")
def test_without_torch_it_says_what_to_install() -> None:
    with pytest.raises(EnvironmentFaultError, match=r"packhorse\[qat\]"):
        train_quantized(object(), (), lambda module: None, Scheme())


@pytest.mark.parametrize(("name", "reason"), [("model.tflite", "static_wi8_ai8"), ("model.bin", ".pte")])
def test_other_forms_are_refused_with_the_nearest_way(name: str, reason: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=reason):
        save(object(), tmp_path / name, ["x"], ["y"])
    assert not (tmp_path / name).exists()
