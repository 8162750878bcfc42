"""What tests and tools do with the scripts: copy, import and edit them, train for seconds."""

import contextlib
import csv
import functools
import importlib
import io
import re
import shutil
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers

REPOSITORY = Path(__file__).resolve().parents[2]
SHORT = {  # constants for trainings of seconds
    "ALPHA": 0.35,
    "IMAGE_SIZE": 96,
    "FROZEN_LAYERS": 0,
    "EPOCHS": 2,
    "WINDOWS_PER_EPOCH": 24,
    "KEPT_SIZE": 192,
    "BATCH_SIZE": 8,
    "BOX_WEIGHT": 2.0,  # of example 2
    "CELLS": 12,  # of example 3
}

to_numpy = keras.ops.convert_to_numpy


def create_small_model(image_size=96):
    """Return a model that trains in no time: a box from the mean colour of the window."""
    windows = keras.Input((image_size, image_size, 3))
    pooled = layers.GlobalAveragePooling2D()(layers.Rescaling(1 / 255)(windows))
    box = layers.Rescaling(1.0, offset=[0.25, 0.25, 0.75, 0.75])(layers.Dense(4)(pooled))
    return keras.Model(windows, box)


def create_short_backbone(input_tensor, **options):
    """Return what stands in for MobileNetV2: a block with a residual sum for each stride."""
    features = input_tensor
    for filters, block in ((16, 0), (24, 2), (32, 5), (64, 12), (96, 15)):
        features = layers.ZeroPadding2D(((0, 1), (0, 1)))(features)
        features = layers.Conv2D(filters, 3, 2, kernel_initializer="he_normal")(features)
        features = layers.ReLU(6.0)(layers.BatchNormalization()(features))
        residual = layers.DepthwiseConv2D(3, padding="same", use_bias=False)(features)
        residual = layers.BatchNormalization()(residual)
        features = layers.Add(name=f"block_{block}_add")([features, residual])
    features = layers.BatchNormalization(name="block_16_project_BN")(features)
    features = layers.ReLU(6.0, name="out_relu")(features)
    return keras.Model(keras.utils.get_source_inputs(input_tensor)[0], features)


def set_constants(script, **constants):
    """Give an imported script those of these constants that it has."""
    for name, value in constants.items():
        if hasattr(script, name):
            setattr(script, name, value)


def edit(script, **constants):
    """Write those of these constants that a script has into it, as a user does; count them."""
    text, edited = script.read_text(encoding="utf-8"), 0
    for name, value in constants.items():
        line = f"{name} = {value!r}"
        text, count = re.subn(rf"^{name} = .*", lambda _, line=line: line, text, flags=re.MULTILINE)
        edited += count
    script.write_text(text, encoding="utf-8")
    return edited


def copy_scripts(folder):
    """Copy the scripts and the recipes into a folder."""
    shutil.copy(REPOSITORY / "generate_dataset.py", folder)
    for pattern in ("example_*/*.py", "example_*/recipes/*.*"):
        for file in REPOSITORY.glob(pattern):
            copy = folder / file.relative_to(REPOSITORY)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, copy)


def import_script(project, script, monkeypatch):
    """Import a script of `project` anew, by its path without `.py`."""
    folder, _, name = script.rpartition("/")
    monkeypatch.syspath_prepend(project / folder)
    monkeypatch.delitem(sys.modules, name, raising=False)
    return importlib.import_module(name)


def import_example(project, example, monkeypatch):
    """Import an example's two scripts anew, set for a short training without a download."""
    train_model = import_script(project, f"{example}/train_model", monkeypatch)
    set_constants(train_model, MobileNetV2=create_short_backbone, **SHORT)
    return train_model, import_script(project, f"{example}/evaluate_performance", monkeypatch)


def newest_run(folder):
    """Return the folder of the newest training in an example's folder."""
    return max((folder / "runs").glob("20*"))


def make_run(train_model, model=None, name="2020-02-02_02-02-02"):
    """Make a run's folder with copies of the CSVs that are there, and a model, or an empty file."""
    run = train_model.RUNS / name
    run.mkdir(parents=True)
    for file in train_model.ROOT.glob("*.csv"):
        shutil.copy(file, run)
    model.save(run / "model.keras") if model else (run / "model.keras").touch()
    return run


def read_windows(train_model, rows, size):
    """Return the whole photos of a CSV's rows, as a network sees them."""
    photos = [train_model.load_photo(row["path"], size=row["size"]) for row in rows]
    whole = train_model.WHOLE_PHOTO
    return np.stack([train_model.cut_window(photo, whole, size) for photo in photos])


def predict(train_model, csv_name):
    """Return the rows of the newest run's CSV and what its model predicts of the whole photos."""
    run = newest_run(train_model.RUNS.parent)
    model = keras.models.load_model(run / "model.keras", compile=False)
    rows = train_model.read_csv(run / csv_name)
    return rows, model.predict(read_windows(train_model, rows, model.input_shape[1]))


def read_predictions(run):
    """Return the rows of the predictions.csv in a run's folder."""
    with open(run / "predictions.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@functools.cache
def train(folder, example):
    """Train and evaluate an example in a folder with CSVs, in seconds; return the run's folder."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        train_model, evaluate_performance = import_example(folder, example, monkeypatch)
        train_model.EPOCHS, train_model.LEARNING_RATE = 16, 3e-3
        train_model.WINDOWS_PER_EPOCH = 48
        whole_photo = train_model.WHOLE_PHOTO  # can be learned in these few steps
        train_model.draw_window = lambda box, rng: whole_photo
        if example == "example_2":
            evaluate_performance.THRESHOLD = 0  # a row with a box for each photo
        train_model.main()
        run = newest_run(folder / example)
        with open(run / "printed.txt", "w") as file, contextlib.redirect_stdout(file):
            evaluate_performance.main()
    return run


def read_csvs(project):
    """Return the rows of train.csv and those of validation.csv as dictionaries of strings."""
    texts = [(project / name).read_text("utf-8") for name in ("train.csv", "validation.csv")]
    columns = "path,width,height,xmin,ymin,xmax,ymax,class_name,class_id\n"
    assert all(text.startswith(columns) for text in texts)
    return [list(csv.DictReader(io.StringIO(text, newline=""))) for text in texts]


def make_rows(script):
    """Run main() and return the rows of all photos by their paths."""
    script.main()
    return {row["path"]: row for rows in read_csvs(script.ROOT) for row in rows}
