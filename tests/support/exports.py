"""Exports trained models as README.md does: runtimes without Keras answer as Keras does."""

import keras
import numpy as np
import onnxruntime
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter

from scripts import read_windows

EXPORTS = {  # name of the file: format, options, tolerance
    "m.tflite": ("litert", {}, 1e-3),
    "int8.tflite": ("litert", {"optimizations": [tf.lite.Optimize.DEFAULT]}, 0.2),
    "m.onnx": ("onnx", {}, 1e-3),
    "m": ("tf_saved_model", {}, 1e-3),
}


def load(path):
    """Return a function from windows to the list of the answers of an exported model."""
    if path.suffix == ".tflite":
        runner = Interpreter(str(path)).get_signature_runner()
        return lambda windows: [answer for _, answer in sorted(runner(windows=windows).items())]
    if path.suffix == ".onnx":
        session = onnxruntime.InferenceSession(path)
        return lambda windows: session.run(None, {"windows": windows})
    loaded = tf.saved_model.load(path)
    return lambda windows: keras.tree.flatten(loaded.serve(windows))


def check_exports(train_model, run, folder):
    """Export a run's model in each format and compare the answers for all training photos."""
    model = keras.models.load_model(run / "model.keras", compile=False)
    size = model.input_shape[1]
    windows = read_windows(train_model, train_model.read_csv(run / "train.csv"), size)
    # Several answers come in the order of their names: classes, then coords.
    expected = keras.tree.flatten(model.predict(windows))
    signature = [keras.Input((size, size, 3), dtype="uint8", name="windows")]
    for name, (form, options, tolerance) in EXPORTS.items():
        path = folder / name
        model.export(str(path), format=form, input_signature=signature, verbose=False, **options)
        predict = load(path)
        answers = zip(*(predict(window[None]) for window in windows))
        for answer, of_keras in zip(answers, expected, strict=True):
            spread = np.ptp(of_keras, axis=0).max()
            assert spread > 0.05, "the same for all windows"
            answer = np.concatenate(answer)
            np.testing.assert_allclose(answer, of_keras, atol=tolerance * spread, err_msg=name)
    assert (folder / "int8.tflite").stat().st_size < 0.4 * (folder / "m.tflite").stat().st_size
