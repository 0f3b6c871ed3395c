"""Site files and the files that come with the package."""

import os

import pytest

from lenspipe import stages
from lenspipe.backends.site import WORKFLOWS, find, load_site
from lenspipe.errors import LenspipeError


def test_local_comes_with_lenspipe():
    site = load_site("local", stages.NAMES)
    assert site.backend == "parsl"
    assert site.capacity().cores == len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name: x\ncoers: 2\n", "coers: unknown key; did you mean 'cores'?"),
        ("name: x\nper_task: {modle: 2}\n", "there is no stage 'modle'; did you mean 'model'?"),
        ("name: x\ncores: none\n", "cores"),
        ("name: x\nbackend: slrum\n", "backend"),
    ],
)
def test_wrong_site(tmp_path, text, words):
    path = tmp_path / "site.yaml"
    path.write_text(text)
    with pytest.raises(LenspipeError) as caught:
        load_site(str(path), stages.NAMES)
    assert words in str(caught.value)


def test_unknown_site_names_the_nearest():
    with pytest.raises(LenspipeError, match="did you mean 'local'"):
        find("locl", WORKFLOWS / "sites", "site")
