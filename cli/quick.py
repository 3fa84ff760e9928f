"""What keeps a short command short."""

from __future__ import annotations

import sys
from types import ModuleType


class _NoPandas:
    """Finds no pandas; every other module is found as ever."""

    @staticmethod
    def find_spec(name: str, path: object = None, target: ModuleType | None = None) -> None:
        if name == "pandas":
            raise ModuleNotFoundError("No module named 'pandas'", name="pandas")


def spare_pandas() -> None:
    """Keep PyArrow from importing pandas, for this process.

    PyArrow imports it when it first converts a Python list, to know a pandas Series if it met one;
    that takes most of a second. It tries once, and again only where pandas is asked for
    (`to_pandas`); see `pandas-shim.pxi` of PyArrow.
    """
    if "pandas" in sys.modules:
        return
    finder = _NoPandas()
    sys.meta_path.insert(0, finder)
    try:
        import pyarrow as pa

        pa.array([None])
    finally:
        sys.meta_path.remove(finder)
