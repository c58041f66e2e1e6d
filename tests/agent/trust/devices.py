"""A device that is offered things."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from packhorse_agent.errors import UntrustedError
from packhorse_agent.trust.keeper import TrustKeeper
from packhorse_agent.trust.view import TrustedView
from tests.agent.trust.simulator import (
    FLEET,
    NOW,
    FleetSimulator,
    no_blobs,
)
from tests.fakes.disk import FastFiles


class Device:
    """A device that has accepted a fleet's first metadata, and what it made of each offer since."""

    def __init__(self, fleet: FleetSimulator, folder: Path) -> None:
        self.keeper = TrustKeeper(folder, fleet.roots[0], FLEET, FastFiles())
        self.accept(fleet.files())

    def accept(self, files: dict[str, bytes], **later: float) -> TrustedView:
        view = self.keeper.offer(files, no_blobs, NOW + timedelta(**later))
        assert isinstance(view, TrustedView)
        return view

    def refuse(self, files: dict[str, bytes], error: type[UntrustedError], **later: float) -> None:
        """Offer, expect the refusal, and that what was accepted before stays untouched."""
        before = self.version
        with pytest.raises(error):
            self.keeper.offer(files, no_blobs, NOW + timedelta(**later))
        assert self.version == before

    @property
    def version(self) -> int:
        view = self.keeper.current(NOW)
        assert view is not None
        return view.version
