"""Paths that come from a platform."""

import pytest
from outgrow.adapters import paths
from outgrow.errors import Corrupt

HOSTILE = [
    "",
    ".",
    "..",
    "../x",
    "a/../../x",
    "/etc/passwd",
    "a//b",
    "a/./b",
    "a\\..\\b",
    "C:/x",
    "c:x",
    "a\x00b",
    "a/",
    "/",
]


@pytest.mark.parametrize("path", HOSTILE)
def test_a_path_that_could_climb_out_is_refused(path, tmp_path):
    with pytest.raises(Corrupt):
        paths.checked(path)
    with pytest.raises(Corrupt):
        paths.inside(tmp_path, path)


@pytest.mark.parametrize("path", ["a", "a/b.txt", "...", "a..b", "ünï/😀 file#%?.txt", "-rf"])
def test_a_clean_path_stays_as_it_is(path, tmp_path):
    assert paths.checked(path) == path
    assert paths.inside(tmp_path, path) == tmp_path / path


def test_a_symbolic_link_does_not_lead_out(tmp_path):
    root = tmp_path / "root"
    root.mkdir()
    (root / "out").symlink_to(tmp_path)
    with pytest.raises(Corrupt):
        paths.inside(root, "out/x")
    (root / "within").symlink_to(root)
    assert paths.inside(root, "within/x")
