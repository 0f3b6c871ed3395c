"""The container image, built as docs/containers.md says: base, image, SIF. Nothing of it needs a registry."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.clusters.condor import CannotInstall, mirror, quietly

ROOT = Path(__file__).parents[2]
PACKAGES = ("buildah", "debootstrap", "crun", "uidmap")
PYTHON = ("python3", "python3-venv", "python3-dev", "ca-certificates")
SUITE = "bookworm"
"""The Debian whose Python is 3.11, which the lock is for."""
ROOM = 15
"""GB on the disk."""


class Images:
    """buildah's store, a base and the wheels of the lock below one folder."""

    def __init__(self, folder):
        self.folder = Path(folder)
        self.wheels = self.folder / "wheels"

    def install(self):
        """What the build needs from outside; `CannotInstall` says what is in the way."""
        if os.geteuid() != 0:
            raise CannotInstall("a base is made by debootstrap, and that needs a root user")
        if not all(map(shutil.which, ("buildah", "debootstrap"))):
            quietly("apt-get", "install", "-y", "-qq", "--no-install-recommends", *PACKAGES)
        lock = ROOT / "containers/requirements-cpu.txt"
        self.wheels.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(self.folder).free / 1e9
        if free < ROOM:
            raise CannotInstall(f"wheels, layers, archive and SIF take {ROOM} GB; {free:.0f} GB are free")
        pip = (sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--require-hashes", "--prefer-binary")
        quietly(*pip, "--find-links", self.wheels, "-d", self.wheels, "-r", lock)
        if not self.has("base"):
            base = self.folder / "base"
            quietly("debootstrap", "--variant=minbase", f"--include={','.join(PYTHON)}", SUITE, base, mirror())
            try:
                container = self.buildah("from", "scratch").strip()
                self.buildah("add", "--quiet", container, base, "/")
                self.buildah("commit", "--quiet", "--rm", container, "base")
            except AssertionError as error:
                raise CannotInstall(f"buildah can make no image here: {error}") from None
            finally:
                shutil.rmtree(base)

    def build(self, name):
        """The image of `containers/Containerfile`, from the wheels alone."""
        offline = self.folder / "pip.conf"
        offline.write_text("[global]\nno-index = true\nfind-links = /wheels\n")
        self.buildah(
            *("build", "--quiet", "--format", "docker", "--isolation", "chroot", "--network", "host"),
            *("--volume", f"{self.wheels}:/wheels:ro", "--volume", f"{offline}:/etc/pip.conf:ro"),
            *("--build-arg", "BASE=localhost/base", "--build-arg", "EXTRA_INDEX="),
            *("-f", "containers/Containerfile", "-t", name, "."),
        )

    def archive(self, name, path):
        """An image as the one file that Apptainer reads."""
        self.buildah("push", "--quiet", name, f"docker-archive:{path}:{name}")

    def has(self, name):
        return bool(self.buildah("images", "--quiet", "--filter", f"reference={name}").strip())

    def buildah(self, *argv):
        where = ("--root", self.folder / "store", "--runroot", self.folder / "state", "--storage-driver", "vfs")
        done = subprocess.run(
            ["buildah", *map(str, where), *map(str, argv)], cwd=ROOT, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise AssertionError(f"buildah {argv[0]}: {done.stdout[-3000:]}\n{done.stderr[-3000:]}")
        return done.stdout
