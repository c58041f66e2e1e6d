"""Profiles: classes of devices. Written by people as TOML, checked by these models."""

from __future__ import annotations

from enum import Enum
from typing import Annotated, Literal

from pydantic import Field, model_validator

from packhorse_agent.contract.base import HumanDocument, Name, Version
from packhorse_agent.contract.recipe_record import RecipeName

RuntimeName = Literal["onnxruntime", "litert", "tflite-runtime", "executorch", "pytorch-mobile", "tensorrt"]


class PowerSourceKind(str, Enum):
    """Readers of power or energy, by the interface that they read."""

    INA3221 = "ina3221"
    RAPL = "rapl"
    PMIC = "pmic"
    ANDROID_BATTERY = "android-battery"
    ODPM = "odpm"


class Compatibility(HumanDocument):
    """Which machines may carry the profile."""

    architectures: Annotated[tuple[Literal["aarch64", "x86_64", "armv7l"], ...], Field(min_length=1)]
    operating_systems: Annotated[tuple[Literal["linux", "android"], ...], Field(min_length=1)]
    minimum_python: Version = "3.10"


class Detection(HumanDocument):
    """How the agent recognises the device; the most specific match is proposed."""

    device_tree_models: tuple[str, ...] = ()
    """Beginnings of `/proc/device-tree/model`."""
    android: bool = False
    """Matches where the agent runs under Android."""


class ProfileRuntime(HumanDocument):
    """One runtime that serves the profile."""

    name: RuntimeName
    minimum_version: Version
    providers: tuple[str, ...] = ()


class RecipePreference(HumanDocument):
    """Which recipe `auto` takes, and why."""

    name: RecipeName
    reason: Annotated[str, Field(min_length=1)]


class Budget(HumanDocument):
    """What the agent may use."""

    memory_mib: Annotated[int, Field(ge=16)]
    storage_mib: Annotated[int, Field(ge=16)]


class PowerSource(HumanDocument):
    """A source of power or energy figures, tried in order."""

    kind: PowerSourceKind
    scope: Literal["rail", "module", "board", "package"]
    labels: tuple[str, ...] = ()
    """Rails to sum, matched by label; empty: those that the reader knows as the total."""


class ThermalLimits(HumanDocument):
    """Temperatures in degrees Celsius."""

    warm_c: float
    """Above it figures are marked DEGRADED and new deployments wait."""
    critical_c: float

    @model_validator(mode="after")
    def _warm_comes_first(self) -> ThermalLimits:
        if not self.warm_c < self.critical_c:
            raise ValueError(f"warm_c {self.warm_c} is not below critical_c {self.critical_c}")
        return self


class Profile(HumanDocument):
    """One class of devices."""

    name: Name
    title: Annotated[str, Field(min_length=1)]
    compatible: Compatibility
    detection: Detection = Detection()
    runtimes: Annotated[tuple[ProfileRuntime, ...], Field(min_length=1)]
    """In order of preference."""
    recipe: RecipePreference
    threads: Annotated[int, Field(ge=1, le=256)]
    budget: Budget
    power_sources: tuple[PowerSource, ...] = ()
    thermal: ThermalLimits
