"""Checkpoints: what goes in comes out, and what is not theirs or not whole is passed over."""

import numpy as np
import pytest

from lenspipe.io.checkpoint import FileCheckpoint, digest
from tests.infer.mock import lens


def test_parts_come_back_in_a_later_process(tmp_path):
    path = tmp_path / "sub" / ".a.checkpoint.npz"
    first = FileCheckpoint(path, "x")
    assert first.load("search") is None
    first.save("search", {"u": np.arange(3.0), "text": np.array("ä")})
    first.save("chains", {"u": np.ones((2, 3), np.uint32)})
    first.save("chains", {"u": np.zeros((4, 3), np.uint32)})
    again = FileCheckpoint(path, "x")
    assert again.spent > 0
    np.testing.assert_array_equal(again.load("search")["u"], np.arange(3.0))
    assert str(again.load("search")["text"]) == "ä"
    assert again.load("chains")["u"].shape == (4, 3) and again.load("chains")["u"].dtype == np.uint32
    again.remove()
    again.remove()
    assert FileCheckpoint(path, "x").load("search") is None


def test_anothers_checkpoint_is_passed_over(tmp_path, caplog):
    FileCheckpoint(tmp_path / "a", "x").save("search", {"u": np.ones(1)})
    with caplog.at_level("INFO"):
        assert FileCheckpoint(tmp_path / "a", "y").load("search") is None
    assert "another configuration" in caplog.text


@pytest.mark.parametrize("damage", ["cut", "flip", "text", "empty"])
def test_a_damaged_checkpoint_is_passed_over(tmp_path, caplog, damage):
    path = tmp_path / "a"
    FileCheckpoint(path, "x").save("search", {"u": np.arange(1000.0)})
    content = bytearray(path.read_bytes())
    if damage == "flip":
        content[len(content) // 2] ^= 255
    path.write_bytes({"cut": content[:-100], "flip": content, "text": b"not a checkpoint", "empty": b""}[damage])
    assert FileCheckpoint(path, "x").load("search") is None
    assert "damaged" in caplog.text


def test_objects_are_not_written(tmp_path):
    with pytest.raises(ValueError, match="allow_pickle"):
        FileCheckpoint(tmp_path / "a", "x").save("search", {"u": np.array([object()])})
    assert not list(tmp_path.iterdir())


def test_saves_are_spaced(tmp_path):
    checkpoint = FileCheckpoint(tmp_path / "a", "x", every=1000)
    assert not checkpoint.due()
    assert FileCheckpoint(tmp_path / "a", "x", every=0).due()


def test_half_written_files_are_swept(tmp_path):
    (tmp_path / ".0123.tmp.a").write_text("half")
    FileCheckpoint(tmp_path / "a", "x")
    assert not list(tmp_path.iterdir())


def test_the_digest_sees_every_change():
    cutout, masks = lens(size=15)
    known = digest(cutout, masks, {"a": 1}, 5)
    other, _ = lens(size=15, seed=2)
    assert known == digest(*lens(size=15), {"a": 1}, 5)
    assert len({known, digest(other, masks, {"a": 1}, 5), digest(cutout, None, {"a": 1}, 5),
                digest(cutout, masks, {"a": 2}, 5), digest(cutout, masks, {"a": 1}, 6)}) == 5  # fmt: skip
