"""Lock what the image holds: ``python containers/lock.py cpu`` (or ``cuda``) writes ``requirements-cpu.txt`` anew.

Every package that lenspipe needs in the version that ``constraints.txt`` names, with the SHA-256 of the file that pip
takes on this machine: Linux on x86_64 with the image's Python. Nothing is installed.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
INDEX = {"cpu": "https://download.pytorch.org/whl/cpu", "cuda": ""}
"""Where torch without CUDA is; torch of PyPI has it."""


def main(variant: str, *more: str) -> None:
    """`more` goes to pip, for example ``--find-links FOLDER`` with torch's CPU wheel."""
    index = ["--extra-index-url", INDEX[variant]] if INDEX[variant] and not more else list(more)
    argv = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--quiet", "--report", "-"]
    argv += ["-c", str(HERE.parent / "constraints.txt"), *index, str(HERE.parent)]
    report = json.loads(subprocess.run(argv, check=True, stdout=subprocess.PIPE).stdout)
    lines = [
        f"{item['metadata']['name'].lower()}=={item['metadata']['version']} "
        f"--hash=sha256:{item['download_info']['archive_info']['hashes']['sha256']}"
        for item in report["install"]
        if item["metadata"]["name"] != "lenspipe"
    ]
    head = f"# Made by containers/lock.py {variant} from setup.cfg and constraints.txt."
    (HERE / f"requirements-{variant}.txt").write_text("\n".join([head, *sorted(lines)]) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
