"""A disk that is full (a limit on files' sizes stands in) stops the generator with one line."""

import resource
import subprocess
import sys

import pytest

from conftest import edit


def run(script, limit):
    """Run a script that cannot write files larger than `limit` bytes; return what it printed."""
    done = subprocess.run(
        [sys.executable, script],
        capture_output=True,
        text=True,
        timeout=240,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )
    assert done.returncode == 1, done.stdout + done.stderr
    lines = done.stderr.strip().splitlines()
    assert "Traceback" not in done.stderr
    return lines[-1]


def read_files(folder):
    """Return the content of each file below a folder, by its path."""
    files = [file for file in folder.rglob("*") if "__pycache__" not in file.parts]
    return {str(file): file.read_bytes() for file in files if file.is_file()}


@pytest.mark.parametrize("augmentation", [False, True])
def test_generation(csvs, augmentation):
    script = csvs / "generate_dataset.py"
    edit(script, AUGMENTATION=augmentation, AUGMENTATION_PER_IMAGE=2, SEED=1, WORKERS=2)
    before = read_files(csvs)
    line = run(script, 1000)
    assert line.startswith("generate_dataset.py: ") and "too large" in line
    assert read_files(csvs) == before
