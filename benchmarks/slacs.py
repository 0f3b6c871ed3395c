"""Real HST lenses of the SLACS survey against their published Einstein radii: image, noise and PSF only, no hand.

``--data DIR`` holds ``slacs/NAME/{image,noise,psf}.fits.gz`` and ``slacs/published.csv`` (Bolton et al. 2008, ApJ 682,
964; ``agree5pct`` marks the lenses on which other automatic fits agree with it). The lenses go through
``lenspipe run workflows/search.yaml`` like anybody's; a run in ``--out`` that is complete is only read.
"""

from __future__ import annotations

import argparse
import csv
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

WORKFLOW = Path(__file__).parents[1] / "workflows" / "search.yaml"


def run(data: Path, out: Path, quick: bool) -> None:
    """All lenses of `data` through the search workflow."""
    command = [sys.executable, "-m", "lenspipe", "run", str(WORKFLOW), "--out", str(out)]
    command += ["--set", f"convert.source={data / 'slacs'}"]
    if quick:
        command += ["--set", "model.sampler={burn: 50, min_steps: 50, max_steps: 50}"]
    code = subprocess.run(command, check=False, stdout=sys.stderr).returncode
    if code not in (0, 3):
        sys.exit(code)


def _mean(fits: dict[str, dict[str, Any]], key: str) -> float | None:
    values = [fit[key] for fit in fits.values() if key in fit]
    return float(np.mean(values)) if values else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, help="run folder; default: a temporary one")
    parser.add_argument("--quick", action="store_true", help="50 steps of the sampler: optima, no posteriors")
    parser.add_argument("--json", action="store_true", help="print one JSON line last")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        out = options.out or Path(temporary) / "slacs"
        run(options.data, out, options.quick)
        fits = {p.parent.name: json.loads(p.read_text()) for p in out.glob("search/models/*/*/fit.json")}
    with (options.data / "slacs" / "published.csv").open() as stream:
        published = {row["lens"]: row for row in csv.DictReader(stream)}

    print(f"{'lens':12s} {'easy':4s} {'published':>9s} {'lenspipe':>9s} {'sigma':>7s} {'off':>7s}  status")
    error, easy, suspect = [], [], []
    for name, row in published.items():
        fit = fits.get(name)
        truth, found = float(row["bSIE_arcsec"]), fit["parameters"]["theta_E"] if fit else None
        off = found["median"] / truth - 1 if found else np.nan
        error.append(abs(off))
        easy.append(row["agree5pct"] == "1")
        # The unconverged chains of a quick look are its own doing, not the lens's.
        codes = [r["code"] for r in fit["reasons"]] if fit else ["missing"]
        codes = [c for c in codes if not (options.quick and c == "not_converged")]
        suspect.append(bool(codes))
        values = (truth, found["median"], found["sigma"]) if found else (truth, np.nan, np.nan)
        numbers = "{:9.3f} {:9.3f} {:7.4f}".format(*values)
        print(f"{name:12s} {'*' if easy[-1] else '':4s} {numbers} {100 * off:+6.1f}%  {', '.join(codes) or 'good'}")
    off, is_easy, flagged = np.array(error), np.array(easy), np.array(suspect)
    right = off < 0.1
    figures = {
        "n": len(off),
        "n_easy": int(is_easy.sum()),
        "easy_within_5pct": float((off[is_easy] < 0.05).mean()),
        "all_within_10pct": float(right.mean()),
        "silent_misses": int((~right & ~flagged).sum()),
        "suspect_but_right": int((right & flagged).sum()),
        "seconds_per_lens": _mean(fits, "seconds"),
        "cpu_seconds_to_optimum": _mean(fits, "search_cpu_seconds"),
        "cpu_seconds_to_posterior": _mean(fits, "cpu_seconds"),
        "quick": options.quick,
    }
    print(", ".join(f"{name} {value}" for name, value in figures.items()))
    if options.json:
        print(json.dumps(figures))


if __name__ == "__main__":
    main()
