"""Trainings that are stopped, killed or gone on with, and the scripts as commands."""

import io
import runpy
import signal
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image

from conftest import create_small_model, edit

pytestmark = pytest.mark.usefixtures("eagerly")


@pytest.fixture
def train_model(csvs, train_model):
    """Return example 1's train_model.py with a network that trains in no time, and four epochs."""
    train_model.create_model, train_model.EPOCHS = create_small_model, 4
    return train_model


def read_log(folder):
    return np.genfromtxt(folder / "log.csv", delimiter=",", names=True)


def kill(train_model, monkeypatch, save=3):
    """Train until a kill in the middle of this save of the backup."""
    save_weights, files = keras.Model.save_weights, []

    def stop(model, filepath, **options):
        files.append(Path(filepath))
        if len(files) == save:
            files[-1].write_bytes(b"half")
            raise KeyboardInterrupt
        save_weights(model, filepath, **options)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(keras.Model, "save_weights", stop)
        train_model.main()
    assert (train_model.FOLDER / "backup").exists()


@pytest.mark.parametrize(("save", "epochs"), [(1, [0, 1, 2, 3]), (3, [0, 1, 2, 2, 3])])
def test_a_resumed_training_ends_as_if_nothing_had_happened(train_model, monkeypatch, save, epochs):
    train_model.main()
    expected = read_log(train_model.FOLDER)
    (train_model.FOLDER / "model.keras").unlink()
    kill(train_model, monkeypatch, save)
    steps = []
    train_model.SaveBest.on_train_end = lambda callback, logs=None: steps.append(
        int(callback.model.optimizer.iterations)
    )
    train_model.RESUME = True
    train_model.main()
    log = read_log(train_model.FOLDER)
    assert log["epoch"].tolist() == epochs, "an epoch is logged twice rather than never"
    assert steps == [4 * 3], "the optimizer's state too"
    np.testing.assert_allclose(log["learning_rate"], expected["learning_rate"][epochs])
    np.testing.assert_allclose(log["val_loss"][:2], expected["val_loss"][:2], rtol=1e-4)
    assert not (train_model.FOLDER / "backup").exists()


def test_a_worse_model_replaces_none_after_a_kill(train_model, monkeypatch):
    kill(train_model, monkeypatch)
    log, model = train_model.FOLDER / "log.csv", train_model.FOLDER / "model.keras"
    column = read_log(train_model.FOLDER).dtype.names.index("val_iou")
    rows = [line.split(",") for line in log.read_text().splitlines()]
    rows[1][column] = "0.99"  # as if the first epoch had been the best
    log.write_text("".join(",".join(row) + "\n" for row in rows))
    best, train_model.RESUME = model.read_bytes(), True
    train_model.main()
    assert len(read_log(train_model.FOLDER)) == 5 and model.read_bytes() == best


@pytest.mark.parametrize("resume", [False, True])
def test_a_new_training_keeps_the_older_model(train_model, monkeypatch, resume):
    folder = train_model.FOLDER
    if not resume:  # with RESUME = True there is nothing to go on with
        kill(train_model, monkeypatch)
    (folder / "model.keras").write_bytes(b"older")
    train_model.RESUME = resume
    train_model.main()
    (older,) = folder.glob("model_2*.keras")
    assert older.read_bytes() == b"older" and len(read_log(folder)) == 4
    assert keras.models.load_model(folder / "model.keras", compile=False).output_shape == (None, 4)


def run(script):
    """Run a script as a command in this process; return its exit message."""
    handler = signal.getsignal(signal.SIGINT)
    try:
        runpy.run_path(str(script), run_name="__main__")
    except SystemExit as stop:
        return stop.code
    finally:
        of_script = signal.signal(signal.SIGINT, handler)
        assert of_script == signal.SIG_DFL, "Ctrl-C would print a traceback, or end nothing"


def test_a_folder_that_cannot_be_written_to(train_model, evaluate_performance, csvs):
    folder = train_model.FOLDER
    (folder / "batch.jpg").mkdir()
    create_small_model().save(folder / "model.keras")
    edit(folder / "train_model.py", WEIGHTS=None, IMAGE_SIZE=96)
    message = run(folder / "train_model.py")
    assert message.startswith("train_model.py: ") and "batch.jpg" in message
    (folder / "predictions").write_bytes(b"")
    message = run(folder / "evaluate_performance.py")
    assert message.startswith("evaluate_performance.py: ") and "predictions" in message


def test_names_that_the_console_cannot_print(train_model, evaluate_performance, monkeypatch):
    folder = train_model.FOLDER
    create_small_model().save(folder / "model.keras")
    Image.new("RGB", (60, 40)).save(folder / "Zoë.png")
    edit(folder / "evaluate_performance.py", IMAGES="example_1/*.png")
    console = io.TextIOWrapper(io.BytesIO(), "ascii", write_through=True)
    for stdout in (io.StringIO(), console):  # the first, as Jupyter's, has no encoding to change
        monkeypatch.setattr(sys, "stdout", stdout)
        assert run(folder / "evaluate_performance.py") is None
    assert rb"Zo\xeb.png: box " in console.buffer.getvalue()


def test_a_save_that_does_not_end_leaves_the_best_model(train_model, monkeypatch):
    folder, save = train_model.FOLDER, keras.Model.save

    def save_half_the_second(model, path, **options):
        if (folder / "model.keras").exists():
            Path(path).write_bytes(b"half")
            raise OSError("No space left on device")
        save(model, path, **options)

    monkeypatch.setattr(keras.Model, "save", save_half_the_second)
    train_model.EPOCHS, train_model.LEARNING_RATE = 40, 0.01
    with pytest.raises(OSError, match="No space left"):
        train_model.main()
    model = keras.models.load_model(folder / "model.keras", compile=False)
    validation = train_model.PhotoDataset(*train_model.read_csv("validation.csv"))
    ious = keras.ops.convert_to_numpy(train_model.iou(validation.boxes, model.predict(validation)))
    assert ious.mean() == pytest.approx(read_log(folder)["val_iou"].max(), rel=1e-3)
