from __future__ import annotations

import pytest
from outgrow.migrate import engine


@pytest.fixture(autouse=True)
def _in_a_directory_of_its_own(tmp_path, monkeypatch):
    """The default ledger is in the working directory; retries wait for nothing."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(engine, "FIRST_WAIT", 0.0)
