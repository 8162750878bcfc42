"""Time the scripts against what the machine can do; each line is a ratio within one run.

make benchmark    # with 400 drawn photos, or as many as an argument of this script says
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

import keras
import numpy as np
import pytest

from draw_pets import draw_dataset
from exports import EXPORTS, load
from scripts import REPOSITORY, copy_scripts, import_script, set_constants


def seconds(function):
    """Return how long a call takes, with its printing kept quiet."""
    quiet, start = io.StringIO(), time.perf_counter()
    with contextlib.redirect_stdout(quiet), contextlib.redirect_stderr(quiet):
        function()
    return time.perf_counter() - start


def compare(what, ours, reference):
    """Time both in turn and print how many times as long ours takes: the median, and the range."""
    seconds(ours)  # the first calls warm up
    seconds(reference)
    ratios = [seconds(ours) / seconds(reference) for _ in range(3)]
    spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
    print(f"{what:62} {statistics.median(ratios):6.2f} ({spread})", flush=True)


def time_training(folder):
    """Compare an epoch of example 1, from memory and from disk, with one on windows cut before."""
    train_model = import_script(folder, "example_1/train_model", pytest.MonkeyPatch())
    set_constants(train_model, WEIGHTS=None, WINDOWS_PER_EPOCH=40)
    model = train_model.create_model()
    model.compile("sgd", train_model.box_loss)
    rows = train_model.read_csv("train.csv")
    for train_model.INMEMORY in (True, False):
        dataset = train_model.PhotoDataset(*rows, training=True)
        windows, boxes = map(np.concatenate, zip(*map(dataset.__getitem__, range(len(dataset)))))
        fit_arrays = functools.partial(model.fit, windows, boxes, train_model.BATCH_SIZE)
        what = f"training, INMEMORY = {train_model.INMEMORY}: windows cut before"
        compare(what, functools.partial(model.fit, dataset), fit_arrays)


def time_evaluation(folder):
    """Compare three looks at each validation photo with one."""
    script = import_script(folder, "example_1/evaluate_performance", pytest.MonkeyPatch())
    script.train_model.WEIGHTS = None
    model = script.train_model.create_model()
    paths, _ = script.read_csv("validation.csv")

    def find(looks):
        script.LOOKS = looks
        return [*script.find_objects(model, paths[:10])]

    compare("evaluation, LOOKS = 3: LOOKS = 1", lambda: find(3), lambda: find(1))


def compare_exports(folder):
    """Print each format's size, time, and largest difference to the trained model of example 1."""
    file = REPOSITORY / "example_1" / "model.keras"
    if not file.exists():
        print("exports: not compared, because example 1 is not trained")
        return
    train_model = import_script(folder, "example_1/train_model", pytest.MonkeyPatch())
    model = keras.models.load_model(file, compile=False)
    train_model.IMAGE_SIZE = model.input_shape[1]
    photos = [train_model.load_photo(path) for path in train_model.read_csv("validation.csv")[0]]
    windows = np.stack([train_model.cut_window(photo, train_model.WHOLE_PHOTO) for photo in photos])
    expected = model.predict(windows, verbose=False)
    print(f"Keras: {time_window(model.predict_on_batch, windows):.1f} ms a window")
    for name, (form, options, _) in EXPORTS.items():
        path = folder / name
        signature = [keras.Input(model.input_shape[1:], dtype="uint8", name="photos")]
        model.export(str(path), format=form, input_signature=signature, verbose=False, **options)
        predict = load(path)
        files = [path, *path.rglob("*")]
        size = sum(file.stat().st_size for file in files if file.is_file()) / 1e6
        found = np.concatenate([predict(window[None])[0] for window in windows])
        difference = np.abs(found - expected).max()
        milliseconds = time_window(predict, windows)
        print(f"{name}: {milliseconds:.1f} ms a window, {size:.1f} MB, {difference:.1g} pixels off")


def time_window(predict, windows):
    """Return the milliseconds that a window takes: the fastest of 30."""
    return 1000 * min(seconds(lambda: predict(windows[:1])) for _ in range(30))


if __name__ == "__main__":
    photos = int(sys.argv[1]) if sys.argv[1:] else 400
    with tempfile.TemporaryDirectory(prefix="benchmark-") as name:
        copy_scripts(Path(name))
        draw_dataset(name, photos)
        print(f"{os.cpu_count()} cores. What: against what; ratio of the times (range)")
        seconds(import_script(Path(name), "generate_dataset", pytest.MonkeyPatch()).main)
        time_training(Path(name))
        time_evaluation(Path(name))
        compare_exports(Path(name))
