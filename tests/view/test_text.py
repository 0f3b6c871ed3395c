"""Numbers as people read them."""

from __future__ import annotations

import pytest

from lenspipe.view.text import parameters_text, rounded
from tests.view import example


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ((1.62345, 0.0123, 0.0119), ("1.623", "0.012", "0.012")),
        ((-0.00004, 0.01, 0.01), ("0.000", "0.010", "0.010")),
        ((43.21, 1.04, 1.11), ("43.2", "1.0", "1.1")),
        ((123456.0, 2345.0, 2345.0), ("123500", "2300", "2300")),
        ((1.0, 0.0, 0.0), ("1", "0", "0")),
    ],
)
def test_rounding_follows_the_uncertainty(given: tuple[float, float, float], shown: tuple[str, str, str]) -> None:
    assert rounded(*given) == shown


def test_parameters_text_holds_everything_in_aligned_columns() -> None:
    fit = example.fit("suspect")
    text = parameters_text(fit)
    lines = text.splitlines()
    table = lines[next(i for i, line in enumerate(lines) if line.startswith("name")) :][: len(example.NAMES) + 1]
    assert [line.split()[0] for line in table] == ["name", *example.NAMES]
    unit_at = table[0].index("unit")
    assert {line[unit_at:] for line in table[1:]} == {"arcsec", ""}
    assert "low_magnification" in text and "look before you use it" in text
    assert "magnification" in text and "largest R-hat" in text
    assert all(line == line.rstrip() for line in lines)


def test_a_fit_without_parameters_still_has_its_verdict() -> None:
    fit = {"id": "x", "status": "failed", "reasons": [{"code": "task_crashed", "sentence": "It died."}]}
    assert "failed: do not use it" in parameters_text(fit)
    assert "It died. (task_crashed)" in parameters_text(fit)
