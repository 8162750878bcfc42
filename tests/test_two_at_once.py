"""Two runs started together in one checkout leave whole files, each of one of the two."""

import contextlib
import csv
import subprocess
import sys
import time

import keras
import pytest
from PIL import Image

SLOWLY = """
import time
def slowly(rows):
    for row in rows:
        time.sleep(0.01)
        yield row
write_csv = script.write_csv
script.write_csv = lambda file, rows, class_ids: write_csv(file, slowly(rows), class_ids)
"""


def start(folder, module, change="", **constants):
    """Start a script's `main`, changed and with these constants, in a process of its own."""
    settings = "".join(f"script.{name} = {value!r}\n" for name, value in constants.items())
    code = f"import {module} as script\n{settings}{change}\nscript.main()"
    return subprocess.Popen(
        [sys.executable, "-c", code], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def finish(*processes):
    """Wait for processes, which must end well."""
    for process in processes:
        _, errors = process.communicate(timeout=240)
        assert process.returncode == 0, errors.decode()


def test_generators(pets):
    names = ("train.csv", "validation.csv")
    alone = []
    for seed in (0, 1):
        finish(start(pets, "generate_dataset", SEED=seed))
        alone.append([(pets / name).read_bytes() for name in names])
    assert alone[0] != alone[1]
    for _ in range(2):
        processes = [start(pets, "generate_dataset", SLOWLY, SEED=seed) for seed in (0, 1)]
        while any(process.poll() is None for process in processes):
            for name, one, other in zip(names, *alone):
                with contextlib.suppress(FileNotFoundError):  # while files are moved
                    assert (pets / name).read_bytes() in (one, other)
            time.sleep(0.002)
        finish(*processes)
        for name, one, other in zip(names, *alone):
            assert (pets / name).read_bytes() in (one, other)
    assert not [*pets.glob("generating-*")]


@pytest.mark.usefixtures("short_backbone")
def test_trainings(csvs, example):
    folder = csvs / example
    constants = {"WEIGHTS": None, "ALPHA": 0.35, "FREEZE": "all", "HEAD": "conv", "AUGMENT": False}
    constants |= {"EPOCHS": 10, "BATCH_SIZE": 4}
    finish(*(start(folder, "train_model", **constants, SEED=seed) for seed in (0, 1)))
    with open(folder / "log.csv", newline="") as log:
        rows = list(csv.DictReader(log))
    assert [row["epoch"] for row in rows] == list(map(str, range(10)))
    assert all(None not in row and None not in row.values() for row in rows)
    with Image.open(folder / "curves.png") as curves:
        curves.load()
    models = [*folder.glob("model-*.keras")]
    assert 1 <= len(models) <= 2
    for model in models:
        keras.models.load_model(model, compile=False)
    left = {file.name for file in folder.iterdir() if file.suffix != ".py" and file.is_file()}
    assert left == {"log.csv", "curves.png", *(model.name for model in models)}
