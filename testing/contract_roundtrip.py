"""A → place → back gives A. See `outgrow.testing.contract`."""

from __future__ import annotations

import pytest

from . import hostile
from .place import Contract, Judge, Place
from .roundtrip import round_trip


class RoundTripContract(Contract):
    """Through the copy engine and the origin record, which bring back what the platform cannot hold."""

    @pytest.mark.parametrize("case", hostile.names())
    def test_round_trip(self, case: str, place: Place, suffix: str, judge: Judge) -> None:
        """A second copy writes nothing, a deep check finds nothing, and the restored run is the original."""
        judge(case, round_trip(hostile.load(case, suffix), place.sink, place.source, place.settle))
