"""Copies of runs."""

import pytest

from lenspipe.errors import LenspipeError
from lenspipe.run.publish import publish
from lenspipe.run.status import status
from tests.run.conftest import ran


def files(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_a_copy_is_a_run_and_copying_again_copies_what_changed(again, tmp_path):
    again()
    root = tmp_path / "run"
    (root / "search/masks/.0123456789ab.tmp.000.h5").write_text("half")
    target, number = publish(root, tmp_path / "kept")
    assert target == tmp_path / "kept/run"
    kept = files(target)
    assert number == len(kept)
    assert {"search/figures.json", "search/masks/000.h5", ".lenspipe/ledger.jsonl"} <= kept
    assert not [name for name in kept if "tmp" in name or "/logs/" in name]
    assert status(target)["stages"] == status(root)["stages"]
    assert publish(root, tmp_path / "kept")[1] == 0
    driver, _ = again("work.offset=3")
    assert ran(driver)["work"] == 9
    assert publish(root, tmp_path / "kept")[1] >= 9
    assert (target / "search/masks/000.h5").read_text() == (root / "search/masks/000.h5").read_text()


def test_nowhere_to_copy(tmp_path, again):
    with pytest.raises(LenspipeError, match="not a run folder"):
        publish(tmp_path, tmp_path / "kept")
    again()
    with pytest.raises(LenspipeError, match="lies there already"):
        publish(tmp_path / "run", tmp_path)
