"""An ordinary user of the image and the launcher."""

import getpass
import os
import pwd
import shutil
import subprocess
from pathlib import Path

USER = "neuroferry" if os.getuid() == 0 else getpass.getuser()
APPTAINER = shutil.which("apptainer") or shutil.which("singularity") or "apptainer"


class Person:
    """An ordinary user with a home folder and a folder for data, who runs programs."""

    def __init__(self, folder: Path, image: Path):
        self.folder = folder
        self.home = folder / "home"
        self.image = image
        self.make(self.home)

    def make(self, path: Path) -> Path:
        path.mkdir(parents=True, exist_ok=True)
        self.own(path)
        return path

    def own(self, path: Path) -> None:
        if os.getuid() == 0:
            entry = pwd.getpwnam(USER)
            os.chown(path, entry.pw_uid, entry.pw_gid)

    def write(self, path: Path, text: str) -> Path:
        self.make(path.parent)
        path.write_text(text, encoding="utf-8")
        self.own(path)
        return path

    def command(self, *words, env=None):
        variables = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.home),
            "NEUROFERRY_SIF": str(self.image),
            **(env or {}),
        }
        become = ["runuser", "-u", USER, "--"] if os.getuid() == 0 else []
        pairs = [f"{name}={value}" for name, value in variables.items()]
        return [*become, "env", "-i", *pairs, *map(str, words)]

    def run(self, *words, env=None, prefix=()):
        return subprocess.run(
            [*prefix, *self.command(*words, env=env)],
            capture_output=True,
            text=True,
            cwd=self.folder,
            check=False,
            stdin=subprocess.DEVNULL,
        )

    def inside(self, *words, options=(), env=None, prefix=()):
        """Run a program in the image."""
        return self.run(
            APPTAINER, "--quiet", "exec", *options, self.image, *words, env=env, prefix=prefix
        )

    def launch(self, *words, env=None, prefix=()):
        """Run the host launcher."""
        return self.run(self.folder / "neuroferry", *words, env=env, prefix=prefix)
