"""One evaluation of the likelihood: lenstronomy, torch and the compiled kernel, alternating on one core.

The workload is three 45x45 ground-based bands, an SIE with one Sersic source and one Sersic lens light, 15 non-linear
parameters, two amplitudes a band. A second one is a 121x121 space-based image with a 15x15 pixel PSF. Times are
process CPU seconds, ratios the medians of the repeats' ratios.
"""

from __future__ import annotations

import argparse
import ctypes
import importlib.util
import json
import platform
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import lenstronomy
import numpy as np
import torch
from threadpoolctl import threadpool_limits

from lenspipe.infer.likelihood import NEGATIVE_FLUX, Imaging, Likelihood
from lenspipe.infer.reference import Lenstronomy
from lenspipe.lensing.psf import gaussian_kernel
from lenspipe.lensing.scene import Scene, build

TRUTH = {
    "theta_E": (1.6, 1.0, 2.2),
    "e1": (0.1, -0.3, 0.3),
    "e2": (0.08, -0.3, 0.3),
    "center_x": (0.02, -0.3, 0.3),
    "center_y": (-0.03, -0.3, 0.3),
    "source_R_sersic": (0.4, 0.05, 2.0),
    "source_n_sersic": (1.2, 0.5, 4.0),
    "source_e1": (0.1, -0.3, 0.3),
    "source_e2": (-0.15, -0.3, 0.3),
    "source_center_x": (0.1, -0.5, 0.5),
    "source_center_y": (0.15, -0.5, 0.5),
    "lens_light_R_sersic": (1.2, 0.1, 5.0),
    "lens_light_n_sersic": (3.5, 0.5, 6.0),
    "lens_light_e1": (0.08, -0.3, 0.3),
    "lens_light_e2": (0.06, -0.3, 0.3),
}
"""Parameter -> value of the mock, bounds of the uniform draws."""
GROUND, SPACE = (120.0, 150.0), (0.03, 0.2)
"""Brightness of the source and the lens light at their effective radii: counts, electrons/s in one HST orbit."""
FLOP = 1.4e6
"""Useful operations of one ground-based evaluation, counted by hand: profiles 0.66, PSFs 0.52, the rest 0.2 million."""


def mock(scene: Scene, ground: bool) -> Imaging:
    """A noisy image of the truth, with a masked neighbour."""
    rng = np.random.default_rng(1)
    bands, size, scale = (3, 45, 0.2637) if ground else (1, 121, 0.05)
    rms = np.array([2.5, 3.5, 6.0])[:bands] if ground else np.array([0.006])
    kernel = gaussian_kernel(0.08, scale)
    kernel = np.pad(kernel, (15 - len(kernel)) // 2) + 1e-3 * rng.uniform(size=(15, 15))
    mask = np.ones((bands, size, size), dtype=bool)
    mask[:, 5:10, 30:39] = False
    data = Imaging(
        image=np.zeros(mask.shape),
        mask=mask,
        pixel_scale=scale,
        background_rms=rms,
        exposure_time=np.full(bands, 90.0 if ground else 2100.0),
        psf_fwhm=np.array([1.25, 0.95, 0.8]) if ground else None,
        psf=None if ground else kernel[None],
    )
    likelihood = Likelihood(data, scene, engine="torch")
    response = likelihood.response(truth(scene))[0]
    model = torch.einsum(
        "l,lbhw->bhw", torch.tensor(GROUND if ground else SPACE, dtype=torch.float64), response
    ).numpy()
    sigma = np.sqrt(rms[:, None, None] ** 2 + model / data.exposure_time[:, None, None])
    return Imaging(**{**vars(data), "image": model + sigma * rng.normal(size=model.shape)})


def truth(scene: Scene) -> torch.Tensor:
    return torch.tensor([[TRUTH[n][0] for n in scene.names]], dtype=torch.float64)


def uniform(scene: Scene, count: int) -> torch.Tensor:
    low, high = (np.array([TRUTH[n][i] for n in scene.names]) for i in (1, 2))
    return torch.as_tensor(np.random.default_rng(2).uniform(low, high, size=(count, len(low))))


def posterior(likelihood: Likelihood, count: int) -> torch.Tensor:
    """Draws around the truth with the covariance of the linearised residuals."""
    middle = truth(likelihood.scene)
    P = middle.shape[1]
    steps = likelihood.residuals(middle + 1e-5 * torch.eye(P, dtype=torch.float64)) - likelihood.residuals(middle)
    scatter = torch.linalg.cholesky(torch.linalg.inv(steps @ steps.T / 1e-10))
    return middle + torch.randn(count, P, dtype=torch.float64, generator=torch.manual_seed(1)) @ scatter.T


def parity(data: Imaging, scene: Scene, count: int) -> dict[str, float]:
    """Largest differences of log L from lenstronomy's: float64 over the prior, float32 near the posterior."""
    reference = Lenstronomy(data, scene)
    wide, narrow = (Likelihood(data, scene, dtype=d) for d in (torch.float64, torch.float32))
    vectors = uniform(scene, count)
    expected = np.array([reference.log_likelihood(v) for v in vectors.numpy()])
    value, negative = (t.numpy() for t in wide.parts(vectors))
    error = np.abs(value + NEGATIVE_FLUX * negative - expected)
    near = posterior(wide, count)
    exact = np.array([reference.log_likelihood(v) for v in near.numpy()])
    return {
        "max_dlogl_f64": float((error / np.maximum(1, np.abs(expected) / 1e3)).max()),
        "wrong_penalties": int((error > -NEGATIVE_FLUX / 2).sum()),
        "max_dlogl_f32": float(np.abs(narrow.parts(near)[0].numpy() - exact).max()),
    }


def cpu_us(call: Callable[[], object], evaluations: int, repeats: int = 1) -> float:
    """Process CPU microseconds an evaluation."""
    start = time.process_time()
    for _ in range(repeats):
        call()
    return (time.process_time() - start) / (evaluations * repeats) * 1e6


def alternate(calls: dict[str, tuple[Callable[[], object], int]], rounds: int) -> dict[str, np.ndarray]:
    """Name -> (rounds,) microseconds an evaluation; every round measures each once, about 30 ms long."""
    repeats = {}
    for name, (call, evaluations) in calls.items():
        call()
        repeats[name] = max(1, int(3e4 / (cpu_us(call, evaluations) * evaluations + 1)))
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, (call, evaluations) in calls.items():
            times[name].append(cpu_us(call, evaluations, repeats[name]))
    return {name: np.array(t) for name, t in times.items()}


def contestants(data: Imaging, scene: Scene, compiled: bool) -> dict[str, tuple[Callable[[], object], int]]:
    reference = Lenstronomy(data, scene)
    vectors = posterior(Likelihood(data, scene), 1024)
    calls: dict[str, tuple[Callable[[], object], int]] = {
        "lenstronomy": (lambda: [reference.log_likelihood(v) for v in vectors[:10].numpy()], 10)
    }
    for label, dtype in (("f64", torch.float64), ("f32", torch.float32)):
        ours, eager = (Likelihood(data, scene, dtype=dtype, engine=e) for e in ("auto", "torch"))
        for count in (150, 1, 1024):
            suffix = "" if count == 150 else f" K={count}"
            calls[f"{ours.engine} {label}{suffix}"] = (lambda f=ours, v=vectors[:count]: f.parts(v), count)
        calls[f"torch eager {label}"] = (lambda f=eager, v=vectors[:64]: f.parts(v), 64)
        if compiled:
            fused, chunk = torch.compile(eager.stack.log_likelihood), vectors[None, :16].to(dtype)
            calls[f"torch compiled {label}"] = (lambda f=fused, v=chunk: f(v, non_negative=False), 16)
    return calls


PEAK = """
#if __AVX512F__
#define BYTES 64
#elif __AVX__
#define BYTES 32
#else
#define BYTES 16
#endif
typedef float V __attribute__((vector_size(BYTES)));
extern "C" float spin(long n) {
  V a[12], x = V{} + 0.999f, y = V{} + 1e-3f;
  for (int i = 0; i < 12; i++) a[i] = V{} + float(i);
  for (long k = 0; k < n; k++)
    for (int i = 0; i < 12; i++) a[i] = a[i] * x + y;
  float s = 0;
  for (int i = 0; i < 12; i++) s += a[i][0];
  return s;
}
extern "C" int lanes() { return BYTES / 4; }
"""


def peak_gflops() -> float | None:
    """float32 rate of fused multiply-adds in registers on this core, nothing else; None without a compiler."""
    compiler = shutil.which("g++")
    if compiler is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        source, library = Path(folder) / "peak.cpp", Path(folder) / "peak.so"
        source.write_text(PEAK)
        flags = ["-O3", "-march=native", "-funroll-loops", "-shared", "-fPIC"]
        subprocess.run([compiler, *flags, "-o", str(library), str(source)], check=True)
        code = ctypes.CDLL(str(library))
        code.spin.argtypes, code.spin.restype = [ctypes.c_long], ctypes.c_float
        operations = 2 * 12 * code.lanes() * 1_000_000
        return max(operations / (cpu_us(lambda: code.spin(1_000_000), 1, 10) * 1e3) for _ in range(5))


def table(title: str, times: dict[str, np.ndarray]) -> dict[str, float]:
    """Prints a workload's times; name -> median of the ratios to lenstronomy."""
    print(f"\n{title}\n{'':28}{'us/evaluation':>14}{'ratio':>8}{'min':>8}{'max':>8}")
    ratios = {}
    for name, t in times.items():
        ratio = times["lenstronomy"] / t
        ratios[name] = float(np.median(ratio))
        print(f"{name:28}{np.median(t):14.1f}{ratios[name]:8.1f}{ratio.min():8.1f}{ratio.max():8.1f}")
    return ratios


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object last")
    parser.add_argument("--quick", action="store_true", help="fewer rounds, without torch.compile")
    options = parser.parse_args()
    torch.set_num_threads(1)
    threadpool_limits(1)
    scene = build(["SIE"], ["SERSIC_ELLIPSE"], ["SERSIC_ELLIPSE"])
    ground, space = mock(scene, ground=True), mock(scene, ground=False)
    kernel = Likelihood(ground, scene)
    engine = kernel.engine
    instructions = kernel.kernel.instructions if kernel.kernel else "none"
    print(
        f"lenstronomy {lenstronomy.__version__}, torch {torch.__version__}, numpy {np.__version__}, Python "
        f"{platform.python_version()}; engine {engine} ({instructions}); one thread"
    )
    peers = {name: bool(importlib.util.find_spec(name)) for name in ("jaxtronomy", "caustics")}
    if not all(peers.values()):
        print("not installed, not measured:", ", ".join(name for name, there in peers.items() if not there))
    agreement = parity(ground, scene, 50 if options.quick else 200)
    agreement_space = parity(space, scene, 30 if options.quick else 100)
    rounds = 5 if options.quick else 15
    times = alternate(contestants(ground, scene, compiled=not options.quick), rounds)
    ratios = table("three bands 45x45, Gaussian PSFs, K=150", times)
    times_space = alternate(contestants(space, scene, compiled=False), rounds)
    ratios_space = table("one band 121x121, 15x15 pixel PSF, K=150", times_space)
    peak = peak_gflops()
    microseconds = float(np.median(times[f"{engine} f32"]))
    result = {
        "ratio_f64": ratios[f"{engine} f64"],
        "ratio_f32": ratios[f"{engine} f32"],
        **agreement,
        "max_dlogl_f64_hst": agreement_space["max_dlogl_f64"],
        "max_dlogl_f32_hst": agreement_space["max_dlogl_f32"],
        "peak_fraction": FLOP / (microseconds * 1e3) / peak if peak else None,
        "peak_gflops_f32": peak,
        "us_per_eval_f32": microseconds,
        "us_per_eval_f64": float(np.median(times[f"{engine} f64"])),
        "ratio_torch_eager": ratios["torch eager f64"],
        "ratio_torch_eager_f32": ratios["torch eager f32"],
        "ratio_torch_compiled": ratios.get("torch compiled f64"),
        "ratio_torch_compiled_f32": ratios.get("torch compiled f32"),
        "ratio_f64_hst": ratios_space[f"{engine} f64"],
        "ratio_f32_hst": ratios_space[f"{engine} f32"],
        "us_per_eval_f32_hst": float(np.median(times_space[f"{engine} f32"])),
        "engine": engine,
        "instructions": instructions,
        "quick": options.quick,
    }
    print(f"\nlog L against lenstronomy: {agreement}; 121x121: {agreement_space}")
    if peak:
        share = 100 * FLOP / (microseconds * 1e3) / peak
        print(f"float32: {share:.0f} % of this core's {peak:.0f} GFLOP/s, by {FLOP / 1e6} million useful operations")
    if options.json:
        print(json.dumps(result))


if __name__ == "__main__":
    main()
