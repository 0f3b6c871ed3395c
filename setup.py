"""The compiled likelihood kernel; without a C++ compiler lenspipe runs on torch alone. All else is in setup.cfg."""

from pathlib import Path

from setuptools import Extension, setup

KERNEL = Path("lenspipe/lensing/kernel")

setup(
    ext_modules=[
        # A plain shared library, loaded by ctypes. Never -march=native nor -ffast-math: the first would not run
        # elsewhere, the second changes the whole process' floating-point mode when it is loaded.
        Extension(
            "lenspipe.lensing.kernel._kernel",
            sources=sorted(str(p) for p in KERNEL.glob("*.cpp")),
            depends=sorted(str(p) for p in KERNEL.glob("*.h")),
            extra_compile_args=[
                "-std=c++17",
                "-O3",
                "-fno-math-errno",
                "-fno-trapping-math",
                "-ffp-contract=fast",
                "-g0",
            ],
            language="c++",
            optional=True,
        )
    ]
)
