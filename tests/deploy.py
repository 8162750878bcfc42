"""Time example 1's exported models on one core, as README.md's table shows it: some minutes.

.venv/bin/python tests/deploy.py
"""

import itertools
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import onnxruntime
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "example_1"))
import train_model

ALPHAS, IMAGE_SIZES = (0.35, 1.0), (96, 224)
ROUNDS, CALLS = 15, 20


def export(model, folder):
    """Export a model; return a file and a function without arguments that predicts, by name."""
    shape = model.input_shape[1:]
    signature = [keras.Input(shape, dtype="uint8", name="photos")]
    quiet = {"verbose": False, "input_signature": signature}
    int8 = {"optimizations": [tf.lite.Optimize.DEFAULT]}
    photos = np.random.default_rng(0).integers(0, 256, (1, *shape), "uint8")
    model.save(folder / "m.keras")
    model.export(folder / "saved", format="tf_saved_model", **quiet)
    model.export(folder / "m.tflite", format="litert", **quiet)
    model.export(folder / "int8.tflite", format="litert", **quiet, **int8)
    model.export(folder / "m.onnx", format="onnx", **quiet)
    loaded = tf.saved_model.load(folder / "saved")
    runs = [
        Interpreter(str(folder / name), num_threads=1).get_signature_runner()
        for name in ("m.tflite", "int8.tflite")
    ]
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(folder / "m.onnx", options)
    return {
        "Keras, `predict_on_batch`": ("m.keras", lambda: model.predict_on_batch(photos)),
        "SavedModel": ("saved", lambda: loaded.serve(photos).numpy()),
        "LiteRT": ("m.tflite", lambda: runs[0](photos=photos)),
        "LiteRT, int8 weights": ("int8.tflite", lambda: runs[1](photos=photos)),
        "ONNX": ("m.onnx", lambda: session.run(None, {"photos": photos})),
    }


def milliseconds(predict):
    """Return how long a prediction takes."""
    start = time.perf_counter()
    for _ in range(CALLS):
        predict()
    return 1000 * (time.perf_counter() - start) / CALLS


def megabytes(path):
    """Return the size of a file, or of the files in a folder."""
    return sum(file.stat().st_size for file in (path, *path.rglob("*")) if file.is_file()) / 1e6


def main():
    """Print the table: each round times all formats in turn; the medians are shown."""
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    train_model.WEIGHTS = None  # the time does not depend on them
    settings = itertools.product(ALPHAS, IMAGE_SIZES)
    for row, (train_model.ALPHA, train_model.IMAGE_SIZE) in enumerate(settings):
        with tempfile.TemporaryDirectory() as folder:
            exported = export(train_model.create_model(), Path(folder))
            rounds = [
                [milliseconds(predict) for _, predict in exported.values()]
                for _ in range(ROUNDS + 1)  # the first warms up
            ]
            sizes = [megabytes(Path(folder) / name) for name, _ in exported.values()]
        if row == 0:
            print("| `ALPHA`, pixels |", " | ".join(exported), "|\n" + "| --- " * 6 + "|")
        medians = map(statistics.median, zip(*rounds[1:]))
        cells = [f"{size:.1f} MB, {time:.2g} ms" for size, time in zip(sizes, medians)]
        print(f"| {train_model.ALPHA}, {train_model.IMAGE_SIZE} |", " | ".join(cells), "|")


if __name__ == "__main__":
    main()
