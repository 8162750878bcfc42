"""Time the scripts against what the machine can do; each line is a ratio within one run.

make benchmark                                 # with 400 drawn photos
.venv/bin/python tests/benchmark.py PHOTOS     # with another number of them

Each line times two things in turn and gives the median of the ratios of their speeds, above 1 where
the first is faster.
"""

import contextlib
import functools
import io
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import cv2
import keras
import numpy as np
import pytest

from conftest import copy_scripts, import_script, set_constants
from draw_pets import draw_dataset


def seconds(function):
    """Return how long a call takes, with its printing kept quiet."""
    quiet, start = io.StringIO(), time.perf_counter()
    with contextlib.redirect_stdout(quiet), contextlib.redirect_stderr(quiet):
        function()
    return time.perf_counter() - start


def compare(what, ours, reference):
    """Time both in turn and print how many times as fast ours is."""
    seconds(ours)  # the first calls warm up
    seconds(reference)
    ratios = [seconds(reference) / seconds(ours) for _ in range(5)]
    spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
    print(f"{what:62} {statistics.median(ratios):6.2f} ({spread})", flush=True)


def load_script(folder, script):
    """Import a script anew, with random weights."""
    module = import_script(folder, script, pytest.MonkeyPatch())
    set_constants(module, WEIGHTS=None, AUGMENT=False)
    return module


def time_generation(folder):
    """Compare `generate_dataset.py` with OpenCV, which reads, resizes and writes each photo."""
    photos = [*folder.glob("images/*.jpg")]

    def read_resize_write():
        for photo in photos:
            cv2.imwrite(f"{folder}/resized.jpg", cv2.resize(cv2.imread(str(photo)), (96, 96)))

    cv2.setNumThreads(1)
    generate = load_script(folder, "generate_dataset").main
    compare("generate_dataset.py: OpenCV's loop", generate, read_resize_write)


def time_training(folder, number):
    """Compare training from the CSV, in memory and from disk, with `model.fit` on ready arrays."""
    train_model = load_script(folder, f"example_{number}/train_model")
    model = train_model.create_model()
    # The loss is another example's lesson: any will do to compare how photos come in.
    model.compile("sgd", keras.tree.map_structure(lambda _: "mse", model.output))
    rows = train_model.read_csv("train.csv")
    dataset = train_model.PhotoDataset(*rows, training=True)
    batches = [dataset[index] for index in range(len(dataset))]
    photos, targets = keras.tree.map_structure(lambda *parts: np.concatenate(parts), *batches)
    photos = photos.astype("float32")
    fit_arrays = functools.partial(model.fit, photos, targets, train_model.BATCH_SIZE)
    for train_model.INMEMORY in (True, False):
        dataset = train_model.PhotoDataset(*rows, training=True)
        what = f"training example {number}, INMEMORY = {train_model.INMEMORY}: ready arrays"
        compare(what, functools.partial(model.fit, dataset), fit_arrays)


def time_evaluation(folder):
    """Compare evaluation, from the CSV to the IoU, with one `model.predict` a photo."""
    train_model = load_script(folder, "example_1/train_model")
    evaluate_performance = load_script(folder, "example_1/evaluate_performance")
    model = train_model.create_model()

    def evaluate():
        evaluate_performance.evaluate(model, "validation.csv")

    def one_by_one():
        for path in train_model.read_csv("validation.csv")[0]:
            model.predict(np.asarray(train_model.load_photo(path))[None], verbose=0)

    compare("evaluation: one model.predict a photo", evaluate, one_by_one)


if __name__ == "__main__":
    photos = int(sys.argv[1]) if sys.argv[1:] else 400
    with tempfile.TemporaryDirectory(prefix="benchmark-") as name:
        project = Path(name)
        copy_scripts(project)
        draw_dataset(project, photos)
        print(f"{os.cpu_count()} cores. What: against what; ratio of the speeds (range)")
        time_generation(project)
        for example in (1, 2, 3):
            time_training(project, example)
        time_evaluation(project)
