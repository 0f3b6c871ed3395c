import json

import pytest
import torch

from lenspipe.errors import LenspipeError
from lenspipe.io import weights
from lenspipe.types import CLASSES

CARD = weights.Card(
    name="unet",
    architecture="UNet",
    options={"depth": 3},
    survey="des",
    bands=("g", "r", "i"),
    pixel_scale=0.2637,
    classes=CLASSES,
    normalisation="inside",
    metrics={"macro_iou": 0.8},
)
DATA = {"architecture": "UNet", "bands": ("g", "r", "i"), "pixel_scale": 0.263, "classes": CLASSES}


@pytest.fixture
def folder(tmp_path):
    weights.save(tmp_path, {"layer.weight": torch.arange(6.0).reshape(2, 3).T}, CARD)
    return tmp_path


def test_come_back_as_they_were(folder):
    tensors, card = weights.load(folder, **DATA, survey="des")
    assert torch.equal(tensors["layer.weight"], torch.arange(6.0).reshape(2, 3).T)
    assert card == CARD


@pytest.mark.parametrize(
    "change, sentence",
    [
        ({"bands": ("g", "r")}, r"for the bands \['g', 'r', 'i'\], not \['g', 'r'\]\.$"),
        ({"pixel_scale": 0.05}, r"for a pixel scale of 0\.2637, not 0\.05\.$"),
        ({"survey": "lsst"}, r"for the survey 'des', not 'lsst'\.$"),
        ({"architecture": "ViT"}, r"for the architecture 'UNet', not 'ViT'\.$"),
        ({"bands": ("z",), "survey": "lsst"}, r"for the bands .*; for the survey 'des', not 'lsst'\.$"),
    ],
)
def test_weights_for_other_data_are_refused_in_one_sentence(folder, change, sentence):
    with pytest.raises(LenspipeError, match=sentence) as caught:
        weights.load(folder, **{**DATA, **change})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"schema": 1}', '{"schema": 1, "strange": 2}'])
def test_a_broken_card_is_refused(folder, text):
    (folder / "card.json").write_text(text)
    with pytest.raises(LenspipeError, match=r"card\.json: not a card"):
        weights.load(folder, **DATA)


def test_another_schema_or_missing_files_are_refused(folder):
    card = json.loads((folder / "card.json").read_text())
    (folder / "card.json").write_text(json.dumps({**card, "schema": 99}))
    with pytest.raises(LenspipeError, match="schema 99"):
        weights.load(folder, **DATA)
    (folder / "card.json").write_text(json.dumps(card))
    (folder / "model.safetensors").write_bytes(b"no tensors")
    with pytest.raises(LenspipeError, match="cannot be read as safetensors"):
        weights.load(folder, **DATA)
    (folder / "card.json").unlink()
    with pytest.raises(LenspipeError, match="weights need a card"):
        weights.load(folder, **DATA)
