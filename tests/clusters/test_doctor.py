"""The doctor's task on real workers of batch systems."""

import json

import yaml

from tests.clusters.miniature import Miniature
from tests.clusters.test_slurm import SITE


def doctor(environment, folder, site, code):
    """What it finds on the workers of `site`: executor -> check -> level and finding."""
    (folder / "site.yaml").write_text(yaml.safe_dump(site))
    made = Miniature(folder, environment)
    try:
        said = made("doctor", "--site", "site.yaml", "--json", "--minutes", 5, code=code)
    finally:
        made.end()
    found = {}
    for check in json.loads(said[said.index('{"ok"') :])["checks"]:
        found.setdefault(check["where"], {})[check["name"]] = (check["level"], check["found"])
    return found


def test_slurms_workers_answer_and_gpus_that_torch_does_not_see_are_said(slurm, tmp_path):
    found = doctor(slurm.environment, tmp_path, SITE, code=1)  # the GPUs of this Slurm are none
    for executor in ("cpu", "gpu"):
        assert found[executor]["worker"][0] == "ok"
        assert "answered over lo" in found[executor]["worker"][1]
        assert found[executor]["same versions"] == ("ok", "as here")
        assert found[executor]["folder"][0] == found[executor]["hdf5"][0] == "ok"
    assert found["gpu"]["accelerators"][0] == "fail"
    assert "accelerators" not in found["cpu"]


def test_site_that_slurm_refuses_is_found(slurm, tmp_path):
    executors = {"cpu": {**SITE["executors"]["cpu"], "constraint": "no-such-feature"}}
    found = doctor(slurm.environment, tmp_path, {**SITE, "executors": executors}, code=1)
    assert found["cpu"]["worker"][0] == "fail"
