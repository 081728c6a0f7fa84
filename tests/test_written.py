"""Files that commands write for people: whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from detection_assets.commands.written import whole
from detection_assets.domain.problems import InputError


def test_a_file_is_there_when_it_is_whole(tmp_path: Path) -> None:
    target = tmp_path / "new" / "a.csv"
    with whole(target, "--csv") as part:
        part.write_text("half")
        assert not target.exists()
    assert target.read_text() == "half"
    with pytest.raises(KeyError), whole(target, "--csv") as part:
        part.write_text({"less": "le"}["more"])
    assert target.read_text() == "half"
    assert [path.name for path in target.parent.iterdir()] == ["a.csv"]


@pytest.mark.parametrize(("where", "told"), [("file/a.csv", "cannot be written: .*--csv"), (".", "is a folder")])
def test_what_cannot_be_written_is_told_with_the_option(tmp_path: Path, where: str, told: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=told), whole(tmp_path / where, "--csv") as part:
        part.write_text("never")


def test_a_link_stays_one(tmp_path: Path) -> None:
    (tmp_path / "real.csv").touch()
    (tmp_path / "link.csv").symlink_to("real.csv")
    with whole(tmp_path / "link.csv", "--csv") as part:
        part.write_text("through")
    assert (tmp_path / "link.csv").is_symlink()
    assert (tmp_path / "real.csv").read_text() == "through"
