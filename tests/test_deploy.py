"""The trained models exported as README.md does, and loaded again by runtimes without Keras.

The examples' own heads sit on a backbone with few of MobileNetV2's blocks: that takes a third of
the time. With all of them: MOBILENET=1 .venv/bin/python -m pytest tests/test_deploy.py
"""

import os
import re

import keras
import numpy as np
import pytest

from conftest import REPOSITORY, create_short_backbone, to_numpy


def export_litert(model, folder, dtype="float32", **options):
    """Export to LiteRT; return a function from a photo to a list of answers, and the file."""
    interpreter = pytest.importorskip("ai_edge_litert.interpreter")
    file = folder / "m.tflite"
    photos = [keras.Input(model.input_shape[1:], dtype=dtype, name="photos")]
    model.export(file, format="litert", input_signature=photos, verbose=False, **options)
    run = interpreter.Interpreter(str(file)).get_signature_runner()

    def predict(photo):
        answers = run(photos=photo.astype(dtype))
        return [answers[name] for name in sorted(answers)]

    return predict, file


def export_litert_int8(model, folder):
    """Likewise, with weights of 8 bits."""
    tensorflow = pytest.importorskip("tensorflow")
    return export_litert(model, folder, "uint8", optimizations=[tensorflow.lite.Optimize.DEFAULT])


def export_onnx(model, folder):
    """Likewise, to ONNX."""
    pytest.importorskip("tf2onnx")
    onnxruntime = pytest.importorskip("onnxruntime")
    file = folder / "m.onnx"
    photos = [keras.Input(model.input_shape[1:], dtype="uint8", name="photos")]
    model.export(file, format="onnx", input_signature=photos, verbose=False)
    session = onnxruntime.InferenceSession(file)
    return lambda photo: session.run(None, {"photos": photo}), file


def export_saved_model(model, folder):
    """Likewise, to a SavedModel, which takes bytes and floats."""
    tensorflow = pytest.importorskip("tensorflow")
    model.export(folder / "m", format="tf_saved_model", verbose=False)
    loaded = tensorflow.saved_model.load(folder / "m")
    return lambda photo: keras.tree.flatten(loaded.serve(photo)), folder / "m"


pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="Keras exports all of these on TensorFlow only"
)
EXPORTS = {
    "LiteRT": export_litert,
    "LiteRT int8": export_litert_int8,
    "ONNX": export_onnx,
    "SavedModel": export_saved_model,
}


def train(train_model):
    """Return a model that finds most of the drawn pets that it was trained on."""
    train_model.IMAGE_SIZE, train_model.CELLS, train_model.CLASSES = 96, 12, 3
    train_model.AUGMENT, train_model.LEARNING_RATE, train_model.EPOCHS = False, 3e-3, 30
    if "MOBILENET" not in os.environ:
        train_model.Backbone, train_model.EPOCHS = create_short_backbone, 18
    keras.utils.set_random_seed(0)
    dataset = train_model.create_dataset("train.csv", training=True)
    model = train_model.create_model()
    part = train_model.create_trained_part(model, dataset)
    part.compile(train_model.create_optimizer(), train_model.loss)
    part.optimizer.build(part.trainable_variables)  # else Keras traces the first step twice
    part.fit(dataset, epochs=train_model.EPOCHS, verbose=0, shuffle=False)
    file = train_model.FOLDER / "model-0.50.keras"
    model.save(file)
    return keras.models.load_model(file, compile=False)


@pytest.mark.parametrize("example", ["example_1", "example_2", "example_3"])
def test_the_exported_model_finds_the_same_boxes(
    csvs, train_model, evaluate_performance, example, subtests
):
    model = train(train_model)
    paths, sizes, true, _ = train_model.read_csv("train.csv")
    photos = [np.asarray(train_model.load_photo(path, 96))[None] for path in paths]

    def find_boxes(answers):
        """Return (n, 4), corners in the photos' pixels."""
        if example != "example_3":
            first = np.concatenate([answer[0] for answer in answers])
            return train_model.to_corners(first, sizes)
        found = [
            evaluate_performance.find_boxes(answer[0][0], size)
            for answer, size in zip(answers, sizes)
        ]
        return np.array([boxes[0] if len(boxes) else np.zeros(4) for boxes in found])

    def mean_iou(boxes):
        pairs = true.astype("float32"), boxes.astype("float32")
        return np.diag(to_numpy(keras.utils.bounding_boxes.compute_iou(*pairs, "xyxy"))).mean()

    answers = keras.tree.flatten(model(np.concatenate(photos), training=False))
    expected = list(zip(*(np.split(to_numpy(answer), len(photos)) for answer in answers)))
    expected_boxes = find_boxes(expected)
    assert mean_iou(expected_boxes) > 0.5, "a model that finds nothing proves nothing"
    for name, export in EXPORTS.items():
        with subtests.test(name):
            folder = train_model.FOLDER / name
            folder.mkdir()
            predict, file = export(model, folder)
            answers = [[np.asarray(answer) for answer in predict(photo)] for photo in photos]
            boxes = find_boxes(answers)
            if name == "LiteRT int8":
                assert mean_iou(boxes) == pytest.approx(mean_iou(expected_boxes), abs=0.01)
                assert file.stat().st_size < 0.4 * 4 * model.count_params()  # 4 bytes a float
                continue
            for answer, expected_answer in zip(answers, expected, strict=True):
                for array, expected_array in zip(answer, expected_answer, strict=True):
                    np.testing.assert_allclose(array, expected_array, atol=0.01)
            sure = np.full(len(paths), True)
            if example == "example_3":  # a cell at the threshold may fall to either side
                grids = np.concatenate([answer[0] for answer in expected])
                threshold = evaluate_performance.THRESHOLD
                sure = np.abs(grids - threshold).min(axis=(1, 2)) > 1e-4
            assert sure.mean() > 0.8
            np.testing.assert_allclose(boxes[sure], expected_boxes[sure], atol=0.5)


@pytest.mark.parametrize("example", ["example_3"])
def test_the_box_of_a_grid_in_the_readme_is_that_of_evaluate_performance(evaluate_performance):
    text = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    (block,) = [b for b in re.findall(r"```python\n(.*?)```", text, re.S) if "def find_box(" in b]
    names = {}
    exec(block, names)
    random = np.random.default_rng(0)
    for _ in range(20):
        grid = np.kron(random.random((7, 7)), np.ones((4, 4))) * random.uniform(0.8, 1, (28, 28))
        expected = evaluate_performance.find_boxes(grid, (500, 333))[0]
        np.testing.assert_allclose(names["find_box"](grid, (500, 333)), expected)
    assert names["find_box"](np.zeros((28, 28)), (500, 333)) is None
