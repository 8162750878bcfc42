"""A disk that is full stops a script with one line, and what was there before stays whole.

A limit on the size of a file stands in for the disk: it fails in the same calls, and no test needs
to be root for it.
"""

import re
import resource
import subprocess
import sys

import pytest

from conftest import create_small_model


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


def set_constants(script, **constants):
    """Write constants into a script."""
    text = script.read_text()
    for name, value in constants.items():
        text, count = re.subn(rf"^{name} = \S+", f"{name} = {value!r}", text, flags=re.MULTILINE)
        assert count == 1
    script.write_text(text)


@pytest.mark.parametrize("augmentation", [False, True])
def test_generation(csvs, augmentation):
    script = csvs / "generate_dataset.py"
    set_constants(script, AUGMENTATION=augmentation, AUGMENTATION_PER_IMAGE=2, SEED=1, WORKERS=2)
    before = read_files(csvs)
    line = run(script, 1000)
    assert line.startswith("generate_dataset.py: ") and "too large" in line
    assert read_files(csvs) == before


@pytest.mark.usefixtures("short_backbone")
def test_training(csvs):
    folder = csvs / "example_1"
    constants = {"WEIGHTS": None, "FREEZE": "all", "HEAD": "conv", "AUGMENT": False}
    constants |= {"ALPHA": 0.35, "EPOCHS": 1}
    set_constants(folder / "train_model.py", **constants)
    for number in range(100):  # the model that is trained has one of these names
        (folder / f"model-0.{number:02}.keras").write_bytes(b"an older model")
    before = read_files(csvs)
    assert run(folder / "train_model.py", 100_000).startswith("train_model.py: ")
    after = read_files(csvs)
    after.pop(str(folder / "log.csv"), None)
    assert after == before


def test_evaluation(csvs, train_model, monkeypatch):
    train_model.EPOCHS, train_model.HEAD = 1, "conv"
    monkeypatch.setattr(train_model, "create_model", create_small_model)
    train_model.main()
    folder = csvs / "example_1"
    script = folder / "evaluate_performance.py"
    subprocess.run([sys.executable, script], check=True, capture_output=True, timeout=240)
    before = read_files(csvs)
    set_constants(script, MIRROR=False)
    before[str(script)] = script.read_bytes()
    assert run(script, 1000).startswith("evaluate_performance.py: ")
    assert read_files(csvs) == before
