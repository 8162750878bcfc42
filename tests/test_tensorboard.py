"""TENSORBOARD = True writes what TensorBoard shows: curves, and validation photos with boxes."""

import io
import sys

import numpy as np
import pytest
from PIL import Image

from conftest import message_of, to_numpy


def read_events(folder):
    """Return the newest run's scalars, by name, and its pictures, as arrays by epoch."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    run = max((folder / "tensorboard").iterdir())
    to_array = pytest.importorskip("tensorflow").make_ndarray
    scalars, pictures = {}, {}
    for part in run.iterdir():
        events = accumulator.EventAccumulator(str(part), {"tensors": 0, "images": 0}).Reload()
        for tag in events.Tags()["tensors"]:
            values = [(event.step, to_array(event.tensor_proto)) for event in events.Tensors(tag)]
            if tag == "validation":  # width, height, PNG
                pngs = {step: io.BytesIO(array[2]) for step, array in values}
                pictures = {step: np.asarray(Image.open(png)) for step, png in pngs.items()}
            else:
                scalars[f"{part.name}/{tag}"] = [array.item() for _, array in values]
    return scalars, pictures


def has_frame(picture, box, colour):
    """Return whether a picture has a box's frame in a colour, within a pixel, all around."""
    xmin, ymin, xmax, ymax = (round(float(corner)) for corner in box)
    is_colour = np.abs(picture.astype(int) - colour).max(axis=-1) < 10
    near = np.pad(is_colour, 1)
    near = (
        sum(np.roll(near, (y, x), (0, 1)) for y in (-1, 0, 1) for x in (-1, 0, 1))[1:-1, 1:-1] > 0
    )
    rows = slice(max(ymin, 0), ymax)
    return near[rows, min(max(xmin, 0), 95)].all() and near[rows, min(xmax, 95)].all()


@pytest.mark.usefixtures("short_backbone")
@pytest.mark.parametrize("example", ["example_1", "example_3"])
def test_curves_and_photos(csvs, train_model, monkeypatch):
    train_model.TENSORBOARD, train_model.FREEZE, train_model.AUGMENT = True, "all", False
    train_model.EPOCHS, train_model.IMAGE_SIZE, train_model.CELLS = 6, 96, 12
    found = np.tile([48.0, 40.0, 40.0, 30.0], (12, 1))
    monkeypatch.setattr(train_model, "predict_boxes", lambda model, photos: found[: len(photos)])
    train_model.main()
    scalars, pictures = read_events(train_model.FOLDER)
    assert len(scalars["train/epoch_loss"]) == len(scalars["validation/epoch_loss"]) == 6
    assert len(scalars["train/epoch_learning_rate"]) == 6
    figure = train_model.METRICS[0].__name__
    np.testing.assert_allclose(
        max(scalars[f"validation/epoch_{figure}"]),
        float(next(iter(models(train_model)))),
        atol=5e-3,
    )
    assert sorted(pictures) == [0, 5]
    targets = train_model.create_dataset("validation.csv")[0][1]
    for picture in pictures.values():
        assert picture.shape == (3 * 96, 4 * 96, 3)
        photos = picture.reshape(3, 96, 4, 96, 3).swapaxes(1, 2)
        for index in range(12):
            photo = photos[index % 3, index // 3]
            assert has_frame(photo, (28, 25, 68, 55), (255, 0, 0)), index
            x, y, width, height = targets[index % len(targets), :4]
            box = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
            visible = (photo == (0, 255, 0)).all(axis=-1).sum()
            assert has_frame(photo, box, (0, 255, 0)) or visible > 40, index  # red lies over green


def models(train_model):
    """Return the figures in the names of the models that a training left."""
    return [file.stem.split("-")[1] for file in train_model.FOLDER.glob("model-*.keras")]


@pytest.mark.parametrize("example", ["example_1", "example_2", "example_3"])
def test_the_boxes_are_the_models(csvs, train_model):
    train_model.IMAGE_SIZE, train_model.CELLS = 96, 12
    model = train_model.create_model()
    photos = train_model.create_dataset("validation.csv")[0][0]
    boxes = to_numpy(train_model.predict_boxes(model, photos))
    assert boxes.shape == (len(photos), 4)
    answers = [to_numpy(answer) for answer in model.predict(photos, verbose=0)][
        : len(model.outputs)
    ]
    if train_model.FOLDER.name == "example_1":
        np.testing.assert_allclose(boxes, model.predict(photos, verbose=0), rtol=1e-4)
    elif train_model.FOLDER.name == "example_2":
        np.testing.assert_allclose(boxes, answers[0], rtol=1e-4)
    else:
        grids = np.zeros((2, 12, 12), "float32")
        grids[0, 3:5, 6:11] = 0.9  # rows 3 and 4, columns 6 to 10, of 8 pixels each
        boxes = train_model.predict_boxes(lambda photos: grids, None)
        np.testing.assert_allclose(boxes, [[(48 + 88) / 2, (24 + 40) / 2, 40, 16], [0, 0, 0, 0]])


@pytest.mark.usefixtures("short_backbone")
@pytest.mark.parametrize("missing", ["tensorboard", "cv2"])
def test_a_missing_package_is_one_line(csvs, train_model, monkeypatch, missing):
    train_model.TENSORBOARD, train_model.FREEZE = True, "all"
    monkeypatch.setitem(sys.modules, missing, None)
    message = message_of(train_model.main)
    assert message.startswith("TENSORBOARD = True: ") and "pip install tensorboard" in message


@pytest.mark.usefixtures("short_backbone")
def test_false_writes_nothing(csvs, train_model):
    train_model.FREEZE, train_model.HEAD, train_model.EPOCHS = "all", "conv", 1
    train_model.main()
    assert not (train_model.FOLDER / "tensorboard").exists()
