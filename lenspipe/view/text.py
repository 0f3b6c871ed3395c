"""A fit in words and numbers, for people."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

VERDICTS = {
    "good": "good: no check found anything wrong",
    "suspect": "suspect: look before you use it",
    "failed": "failed: do not use it",
}


def rounded(value: float, minus: float, plus: float) -> tuple[str, str, str]:
    """A median and its two uncertainties, all to the second significant digit of the mean uncertainty."""
    errors = [e for e in (minus, plus) if math.isfinite(e) and e > 0]
    if not errors:
        return f"{value:.6g}", f"{minus:.2g}", f"{plus:.2g}"
    digits = 1 - math.floor(math.log10(sum(errors) / len(errors)))
    if not -6 <= digits <= 10:
        return f"{value:.6g}", f"{minus:.2g}", f"{plus:.2g}"
    places = max(digits, 0)
    first, second, third = (f"{round(x, digits):.{places}f}" for x in (value, minus, plus))
    return (first.removeprefix("-") if float(first) == 0 else first), second, third


def rows(quantities: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, str, str, str, str]]:
    """Name, median, minus, plus, unit of each entry of ``fit["parameters"]`` or ``fit["derived"]``."""
    table = []
    for name, q in quantities.items():
        median = q["median"]
        known = ("unknown", "", "") if median is None else rounded(median, median - q["p16"], q["p84"] - median)
        table.append((name, *known, q["unit"]))
    return table


def sampler_lines(fit: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What was measured about the fit itself: label and value."""
    formats = {
        "reduced_chi2": ("reduced chi-square", "{:.3f}"),
        "chi2_arc": ("chi-square per arc pixel", "{:.3f}"),
        "rhat_max": ("largest R-hat", "{:.4f}"),
        "ess_min": ("smallest ESS", "{:,.0f}"),
        "n_evaluations": ("likelihood evaluations", "{:,}"),
        "seconds": ("seconds", "{:.1f}"),
        "engine": ("engine", "{}"),
        "device": ("device", "{}"),
        "seed": ("seed", "{}"),
    }
    lines = [(text, form.format(fit[key])) for key, (text, form) in formats.items() if fit.get(key) is not None]
    if "sampler_converged" in fit:
        lines.insert(0, ("sampler converged", "yes" if fit["sampler_converged"] else "no"))
    return lines


def parameters_text(fit: Mapping[str, Any]) -> str:
    """``parameters.txt``: verdict, parameters, derived quantities, sampling, versions, in aligned columns."""
    lines = [f"{fit['id']}", "=" * len(fit["id"]), "", VERDICTS[fit["status"]]]
    lines += [f"  - {reason['sentence']} ({reason['code']})" for reason in fit["reasons"]]
    for title, key in (("Parameters", "parameters"), ("Derived", "derived")):
        if fit.get(key):
            lines += ["", f"{title} (median, 68 % interval)", ""]
            lines += _aligned([("name", "median", "-err", "+err", "unit"), *rows(fit[key])])
    lines += ["", "Fit", "", *_aligned(sampler_lines(fit))]
    if fit.get("versions"):
        lines += ["", "Versions", "", *_aligned(list(fit["versions"].items()))]
    return "\n".join(lines) + "\n"


def _aligned(table: list[tuple[Any, ...]]) -> list[str]:
    """Columns padded to their widest entry; numbers to the right, the first and last column to the left."""
    cells = [[str(c) for c in row] for row in table]
    widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))] if cells else []
    last = len(widths) - 1
    return [
        "  ".join(c.rjust(w) if 0 < i < last else c.ljust(w) for i, (c, w) in enumerate(zip(row, widths))).rstrip()
        for row in cells
    ]
