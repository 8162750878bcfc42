"""Trainings that are stopped, killed or gone on with, and the scripts as commands."""

import io
import os
import runpy
import signal
import subprocess
import sys

import keras
import numpy as np
import pytest
from PIL import Image

from conftest import create_small_model, edit

IMPORT = "from keras.applications.mobilenet_v2 import MobileNetV2, preprocess_input"
# Stands in for MobileNetV2. While the second model is saved, the disk is full or time passes.
STAND_IN = """
import os, resource, time
from pathlib import Path
import keras

def MobileNetV2(input_tensor, **options):
    features = keras.layers.Conv2D(8, 32, strides=32)(input_tensor)
    features = keras.layers.BatchNormalization(name="block_16_project_BN")(features)
    return keras.Model(keras.utils.get_source_inputs(input_tensor)[0], features)

def save(model, path, **options):
    if Path(path).with_name("model.keras").exists():
        if os.environ["SECOND_SAVE"] == "Ctrl-C":
            Path(path).write_bytes(b"half")
            print("saving", flush=True)
            time.sleep(60)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
    keras_save(model, path, **options)

keras_save, keras.Model.save = keras.Model.save, save
"""


@pytest.fixture
def train_model(csvs, train_model):
    """Return example 1's train_model.py with a network that trains in no time, and four epochs."""
    train_model.create_model, train_model.EPOCHS = create_small_model, 4
    return train_model


def read_log(folder):
    return np.genfromtxt(folder / "log.csv", delimiter=",", names=True)


def names_in(folder):
    return sorted(path.name for path in folder.iterdir() if path.suffix not in (".py", ""))


def kill(train_model, monkeypatch):
    """Train until a kill while the third epoch's model is saved."""

    def stop(callback, epoch, logs=None):
        if epoch == 2:
            raise KeyboardInterrupt
        on_epoch_end(callback, epoch, logs)

    on_epoch_end = train_model.SaveBest.on_epoch_end
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(train_model.SaveBest, "on_epoch_end", stop)
        train_model.main()
    assert (train_model.FOLDER / "backup").exists()


def test_a_resumed_training_ends_as_if_nothing_had_happened(train_model, monkeypatch):
    train_model.main()
    expected, files = read_log(train_model.FOLDER), names_in(train_model.FOLDER)
    assert files == ["batch.jpg", "curves.png", "log.csv", "model.keras"]
    (train_model.FOLDER / "model.keras").unlink()
    kill(train_model, monkeypatch)
    assert len(read_log(train_model.FOLDER)) == 2
    steps = []
    train_model.SaveBest.on_train_end = lambda callback, logs=None: steps.append(
        int(callback.model.optimizer.iterations)
    )
    train_model.RESUME = True
    train_model.main()
    log = read_log(train_model.FOLDER)
    assert log["epoch"].tolist() == [0, 1, 2, 3] and steps == [4 * 3], "the optimizer's state too"
    np.testing.assert_allclose(log["learning_rate"], expected["learning_rate"])
    np.testing.assert_allclose(log["val_loss"][:2], expected["val_loss"][:2], rtol=1e-4)
    assert names_in(train_model.FOLDER) == files and not (train_model.FOLDER / "backup").exists()


def test_a_worse_model_replaces_none_after_a_kill(train_model, monkeypatch):
    kill(train_model, monkeypatch)
    log, model = train_model.FOLDER / "log.csv", train_model.FOLDER / "model.keras"
    column = read_log(train_model.FOLDER).dtype.names.index("val_iou")
    rows = [line.split(",") for line in log.read_text().splitlines()]
    rows[1][column] = "0.99"  # as if the first epoch had been the best
    log.write_text("".join(",".join(row) + "\n" for row in rows))
    best, train_model.RESUME = model.read_bytes(), True
    train_model.main()
    assert len(read_log(train_model.FOLDER)) == 4 and model.read_bytes() == best


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
        signal.signal(signal.SIGINT, handler)


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
    console = io.TextIOWrapper(io.BytesIO(), "ascii")
    monkeypatch.setattr(sys, "stdout", console)
    assert run(folder / "evaluate_performance.py") is None
    console.flush()
    assert rb"Zo\xeb.png, box " in console.buffer.getvalue()


def start(command, path, **environment):
    """Start a process in which modules are found in `path` first."""
    environment |= {"PYTHONPATH": str(path), "TF_CPP_MIN_LOG_LEVEL": "3"}
    return subprocess.Popen(
        [sys.executable, command],
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell starts what it puts into the background with Ctrl-C ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


@pytest.mark.parametrize("second_save", ["Ctrl-C", "disk is full"])
def test_a_save_that_does_not_end_leaves_the_best_model(csvs, train_model, second_save):
    folder = train_model.FOLDER
    script, stand_in = folder / "train_model.py", f"{IMPORT}\nfrom stand_in import MobileNetV2"
    edit(script, WEIGHTS=None, IMAGE_SIZE=96, EPOCHS=40, LEARNING_RATE=0.01)
    script.write_text(script.read_text().replace(IMPORT, stand_in))
    (csvs / "stand_in.py").write_text(STAND_IN)
    process = start(script, csvs, SECOND_SAVE=second_save)
    if second_save == "Ctrl-C":
        while "saving" not in process.stdout.readline():
            assert process.poll() is None, process.stderr.read()
        process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert "Traceback" not in errors
    assert process.returncode == (-signal.SIGINT if second_save == "Ctrl-C" else 1)
    assert ("train_model.py: " in errors) == (second_save != "Ctrl-C")
    model = keras.models.load_model(folder / "model.keras", compile=False)
    validation = train_model.PhotoDataset(*train_model.read_csv("validation.csv"))
    ious = keras.ops.convert_to_numpy(train_model.iou(validation.boxes, model.predict(validation)))
    assert ious.mean() == pytest.approx(read_log(folder)["val_iou"].max(), rel=1e-3)
