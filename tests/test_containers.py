"""What the image's lock says agrees with what lenspipe needs and is tested with."""

import configparser
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LOCKED = re.compile(r"([\w.-]+)==([\w.]+)(?:\+\w+)? --hash=sha256:[0-9a-f]{64}")


def plain(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def pins(text):
    return {plain(name): version for name, version in re.findall(r"^([\w.-]+)==([\w.]+)", text, re.M)}


@pytest.mark.parametrize("variant", ["cpu", "cuda"])
def test_lock_holds_every_need_in_the_tested_version(variant):
    lines = (ROOT / f"containers/requirements-{variant}.txt").read_text().splitlines()
    found = [LOCKED.fullmatch(line) for line in lines if not line.startswith("#")]
    assert all(found)
    locked = {plain(match[1]): match[2] for match in found}
    tested = pins((ROOT / "constraints.txt").read_text())
    assert {n: (v, tested[n]) for n, v in locked.items() if n in tested and v != tested[n]} == {}
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    needs = {plain(re.split(r"[<>=]", line)[0]) for line in setup["options"]["install_requires"].split()}
    assert needs - locked.keys() == set()
    of_cuda = {name for name in locked if name.startswith(("nvidia-", "triton"))}
    assert bool(of_cuda) is (variant == "cuda")
