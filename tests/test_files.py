"""Files are replaced whole, and links stay links."""

import os

import pytest

from sparselth.files import write_atomically


@pytest.mark.parametrize("there", [True, False], ids=["target there", "target missing"])
def test_what_a_link_points_to_is_replaced(tmp_path, there):
    target, link = tmp_path / "kept" / "real.json", tmp_path / "link.json"
    target.parent.mkdir()
    if there:
        target.write_text("old")
    os.symlink(target, link)
    write_atomically(link, "new")
    assert link.is_symlink()
    assert target.read_text() == "new"
    assert os.listdir(target.parent) == ["real.json"]
