"""Exports trained models as README.md does: runtimes without Keras answer as Keras does."""

import keras
import numpy as np
import onnxruntime
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter

EXPORTS = {  # name of the file: format, options, tolerance
    "m.tflite": ("litert", {}, 1e-3),
    "int8.tflite": ("litert", {"optimizations": [tf.lite.Optimize.DEFAULT]}, 0.2),
    "m.onnx": ("onnx", {}, 1e-3),
    "m": ("tf_saved_model", {}, 1e-3),
}


def load(path):
    """Return a function from photos to the list of the answers of an exported model."""
    if path.suffix == ".tflite":
        runner = Interpreter(str(path)).get_signature_runner()
        return lambda photos: [answer for _, answer in sorted(runner(photos=photos).items())]
    if path.suffix == ".onnx":
        session = onnxruntime.InferenceSession(path)
        return lambda photos: session.run(None, {"photos": photos})
    loaded = tf.saved_model.load(path)
    return lambda photos: keras.tree.flatten(loaded.serve(photos))


def check_exports(train_model, folder):
    """Export a trained model in each format and compare the answers to all training photos."""
    model = keras.models.load_model(train_model.FOLDER / "model.keras", compile=False)
    paths = train_model.read_csv("train.csv")[0]
    photos = [train_model.load_photo(path) for path in paths]
    photos = np.stack([train_model.cut_window(photo, train_model.WHOLE_PHOTO) for photo in photos])
    # Several answers come in the order of their names: classes, then coords.
    expected = keras.tree.flatten(model.predict(photos))
    signature = [keras.Input((96, 96, 3), dtype="uint8", name="photos")]
    for name, (form, options, tolerance) in EXPORTS.items():
        path = folder / name
        model.export(str(path), format=form, input_signature=signature, verbose=False, **options)
        predict = load(path)
        answers = zip(*(predict(photo[None]) for photo in photos))
        for answer, of_keras in zip(answers, expected, strict=True):
            spread = np.ptp(of_keras, axis=0).max()
            assert spread > 0.05, "the same for all photos"
            answer = np.concatenate(answer)
            np.testing.assert_allclose(answer, of_keras, atol=tolerance * spread, err_msg=name)
    assert (folder / "int8.tflite").stat().st_size < 0.4 * (folder / "m.tflite").stat().st_size
