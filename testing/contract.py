"""The contract suite: what every adapter must do, stated once.

An adapter's test file is its place. Subclass the classes that apply (each is independent):

    from outgrow.testing.contract import (
        LimitsContract, Place, ReadingContract, RoundTripContract, WritingContract,
    )

    class FolderPlace(Place):
        def __init__(self, folder): self.location = f"acme:{folder}"

    @pytest.fixture
    def place(tmp_path):
        return FolderPlace(tmp_path / "x")

    class TestAcmeWriting(WritingContract):
        gaps = {
            "nonfinite:points": "the server stores infinities as the largest double",
            "test_live": "a folder is complete or absent",
        }

What to supply:

- the fixture `place`: a `Place`, for any scope. Ids and names differ from test to test, so one
  place (one server, one database) may serve a whole module; it need not be empty.
- `gaps`, known gaps as data, pattern → reason. A pattern is `CASE:ASPECT` for one of the hostile
  runs (`outgrow.testing.hostile`) and one aspect of what comes back, or the name of a test; `*` and
  `?` match as in file names. Aspects: `run.<field>`, `points`, `points.columns`, `texts`,
  `histograms`, `files`, `artifacts`, `registry`, `experiments`, `refused` (the adapter raised); in a
  round trip `copy`, `check` and `restored.<field or stream>`. A test whose differences are all
  known is an xfail with their reasons; a gap without `*` or `?` that no longer shows fails, so
  that the list stays true.

What a sink can hold is never a gap: it is declared in its `Capabilities`, and `adapters.fit`
says what follows from them.
"""

import pytest

for _module in ("place", "contract_writing", "contract_limits", "contract_reading", "contract_roundtrip"):
    pytest.register_assert_rewrite(f"{__package__}.{_module}")

from .contract_limits import LimitsContract  # noqa: E402
from .contract_reading import ReadingContract  # noqa: E402
from .contract_roundtrip import RoundTripContract  # noqa: E402
from .contract_writing import WritingContract  # noqa: E402
from .place import Contract, Gaps, Judge, Place  # noqa: E402

__all__ = [
    "Contract",
    "Gaps",
    "Judge",
    "LimitsContract",
    "Place",
    "ReadingContract",
    "RoundTripContract",
    "WritingContract",
]
