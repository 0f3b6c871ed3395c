import numpy as np

from lenspipe.io import shards
from lenspipe.io.masks import read_masks
from lenspipe.sim.observe import observe
from lenspipe.sim.population import Population
from lenspipe.sim.survey import Survey
from lenspipe.stages import segment
from lenspipe.types import CLASSES, Cutout


def test_photutils_stands_in_where_there_are_no_weights(tmp_path):
    survey = Survey()
    seen = observe([1, 2, 3, 4], [True] * 4, Population(), survey, 1)
    sigma = np.broadcast_to(seen.sky_rms[:, :, None, None], seen.image.shape).astype(np.float32)
    nan, valid = np.full(3, np.nan), np.ones(seen.image.shape[1:], bool)
    psf = np.ones((3, 1, 1), np.float32)
    cutouts = [
        Cutout(f"S{i}", ("g", "r", "i"), seen.image[i], sigma[i], valid, psf, seen.fwhm[i], 0.2637, nan, nan, nan)
        for i in range(4)
    ]
    shards.write(tmp_path / "shard.h5", cutouts)
    outputs = {"masks": {"0": tmp_path / "masks.h5"}}
    assert segment.run(segment.SegmentConfig(), {"shard": {"0": tmp_path / "shard.h5"}}, outputs, 0) == {"failed": {}}
    ids, probability, origin = read_masks(tmp_path / "masks.h5")
    assert ids == ["S0", "S1", "S2", "S3"] and origin == "photutils"
    assert np.allclose(probability.sum(1), 1, atol=2e-3)
    assert (probability[:, CLASSES.index("lens"), 21:24, 21:24] > 0.5).all()
