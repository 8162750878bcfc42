"""Trainings that are stopped, killed or gone on with, and the scripts as commands."""

import io
import multiprocessing
import os
import runpy
import signal
import sys
import time
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest
from PIL import Image

from checks import message_of
from scripts import create_short_backbone, create_small_model, edit

pytestmark = pytest.mark.usefixtures("eagerly")


@pytest.fixture
def train_model(csvs, train_model):
    """Return example 1's train_model.py with a network that trains in no time, and four epochs."""
    train_model.full_model = train_model.create_model
    train_model.create_model, train_model.EPOCHS = create_small_model, 4
    train_model.LEARNING_RATE = 0.1
    return train_model


def read_log(folder):
    return np.genfromtxt(folder / "log.csv", delimiter=",", names=True)


def read_files(folder):
    """Return the bytes of all files below a folder, by name."""
    return {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def read_weights(train_model):
    """Return the weights of the saved model, and the steps that its optimizer has done."""
    functions = {"box_loss": train_model.box_loss, "iou": train_model.iou}
    model = keras.models.load_model(train_model.FOLDER / "model.keras", functions)
    return model.get_weights(), int(model.optimizer.iterations)


def kill(train_model, monkeypatch, saves, content):
    """Train until a kill while a model is written, after so many whole ones."""
    save, files = keras.Model.save, []

    def stop(model, path):
        files.append(path)
        if len(files) > saves:
            Path(path).write_bytes(content) if content else None
            raise KeyboardInterrupt
        save(model, path)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(keras.Model, "save", stop)
        train_model.main()


@pytest.mark.parametrize("content", [b"half a model", None], ids=["in a save", "before it"])
def test_the_weights_after_a_kill_are_those_of_four_epochs_in_one_go(
    train_model, monkeypatch, content
):
    folder = train_model.FOLDER
    train_model.main()
    expected, steps = read_weights(train_model)
    losses = read_log(folder)["val_loss"]
    kill(train_model, monkeypatch, 2, content)
    after_two, _ = read_weights(train_model)
    assert np.abs(after_two[0] - expected[0]).max() > 0.05
    train_model.RESUME = True
    train_model.main()
    found, found_steps = read_weights(train_model)
    assert found_steps == steps == 4 * 3
    for pair in zip(found, expected, strict=True):
        np.testing.assert_allclose(*pair, rtol=1e-3, atol=1e-3)
    log = read_log(folder)
    assert log["epoch"].tolist() == [0, 1, 2, 2, 3], "an epoch is logged twice rather than never"
    np.testing.assert_allclose(log["val_loss"], losses[[0, 1, 2, 2, 3]], rtol=1e-3)


def test_a_finished_training_goes_on_with_more_epochs(train_model):
    train_model.EPOCHS = 2
    train_model.main()
    train_model.EPOCHS, train_model.RESUME = 3, True
    train_model.main()
    assert read_log(train_model.FOLDER)["epoch"].tolist() == [0, 1, 2]
    assert read_weights(train_model)[1] == 3 * 3
    assert not [*train_model.FOLDER.glob("20*")], "it is no older training"


@pytest.mark.parametrize("kept", [0, -9], ids=["empty", "cut"])
def test_a_log_that_a_full_disk_cut_ends_no_training(train_model, kept, capsys):
    train_model.EPOCHS = 2
    train_model.main()
    log = train_model.FOLDER / "log.csv"
    log.write_text(log.read_text()[:kept])
    (train_model.FOLDER / "curves.png").unlink()
    train_model.EPOCHS, train_model.RESUME = 4, True
    train_model.main()
    assert (train_model.FOLDER / "curves.png").exists() and "3" in log.read_text()
    assert "2 epochs in 0 minutes: val_iou 0." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "image_size", "epochs", "part"),
    [
        (None, 160, 2, "other constants"),
        (b"", 96, 2, "broken"),
        (b"PK half a model", 96, 2, "broken"),
        (None, 96, 1, "all 1 epochs are done"),
    ],
    ids=["other size", "empty", "half", "all done"],
)
def test_what_cannot_be_resumed_is_said_and_left_as_it_is(
    train_model, content, image_size, epochs, part
):
    train_model.create_model, train_model.MobileNetV2 = (
        train_model.full_model,
        create_short_backbone,
    )
    train_model.EPOCHS = 1
    train_model.main()
    if content is not None:
        (train_model.FOLDER / "model.keras").write_bytes(content)
    before = read_files(train_model.FOLDER)
    train_model.RESUME, train_model.IMAGE_SIZE, train_model.EPOCHS = True, image_size, epochs
    message = message_of(train_model.main)
    assert message.startswith("RESUME: ") and part in message and len(message) < 400
    assert read_files(train_model.FOLDER) == before


@pytest.mark.parametrize("other", ["windows", "layers", "split"])
def test_a_training_of_other_windows_layers_or_photos_is_not_resumed(train_model, csvs, other):
    train_model.EPOCHS = 1
    train_model.main()
    before = read_files(train_model.FOLDER)
    train_model.RESUME, train_model.EPOCHS = True, 4
    create_model = train_model.create_model

    def freeze_head():
        model = create_model()
        model.layers[-1].trainable = False
        return model

    part = "other constants or number of photos"
    if other == "windows":
        train_model.WINDOWS_PER_EPOCH += train_model.BATCH_SIZE
    elif other == "layers":
        train_model.create_model = freeze_head
    else:
        os.utime(train_model.ROOT / "train.csv", (time.time() + 60,) * 2)
        part = "train.csv is newer than model.keras"
    assert part in message_of(train_model.main)
    assert read_files(train_model.FOLDER) == before


def test_what_an_older_training_wrote_stays_together(train_model, evaluate_performance):
    folder = train_model.FOLDER
    train_model.EPOCHS = 1
    train_model.main()
    evaluate_performance.main()
    ours = {"model.keras", "log.csv", "batch.jpg", "curves.png", "predictions.csv"}
    ours |= {"predictions.png", *(f"predictions/{file.name}" for file in folder.glob("pred*/*"))}
    ours |= {"predictions/mine.jpg"}  # moves with its folder
    (folder / "predictions" / "mine.jpg").write_bytes(b"mine")
    users = {folder / name: name.encode() for name in ("mine.keras", "notes.txt", "new.keras")}
    for file, content in users.items():
        file.write_bytes(content)
    before = read_files(folder)
    train_model.main()
    (older,) = folder.glob("20*")
    assert ours <= {file.relative_to(older).as_posix() for file in older.rglob("*")}
    (older / "model.keras").rename(folder / "model.keras")  # the user goes back to it
    train_model.main()
    after = read_files(folder)
    assert len([*folder.glob("20*")]) == 2 and {file: after[file] for file in users} == users
    assert set(before.values()) <= set(after.values()), "something is lost"


def test_a_second_training_waits_and_a_kill_frees_the_folder(train_model, csvs):
    read, write = multiprocessing.Pipe()

    def hold():
        lock = train_model.lock_folder()
        write.send(lock is not None)
        time.sleep(99)

    process = multiprocessing.get_context("fork").Process(target=hold)
    process.start()
    assert read.recv()
    before = read_files(train_model.FOLDER)
    assert "another training" in message_of(train_model.lock_folder)
    assert "another training" in run(train_model.FOLDER / "train_model.py")
    assert read_files(train_model.FOLDER) == before
    process.kill()
    process.join()
    train_model.lock_folder().close()
    (train_model.FOLDER / "training.lock").unlink()
    (train_model.FOLDER / "training.lock").mkdir()
    assert "unable to open" in message_of(train_model.lock_folder)


@pytest.mark.parametrize("windows", [24, 8])
def test_a_loss_that_is_no_number_ends_the_training(train_model, windows):
    """With 8 windows there is one step: only the validation sees what it made of the weights."""
    train_model.WINDOWS_PER_EPOCH, train_model.LEARNING_RATE = windows, np.nan
    assert "LEARNING_RATE" in message_of(train_model.main)
    assert not (train_model.FOLDER / "model.keras").exists()


@pytest.mark.parametrize("content", [None, b"", b"half", b"not mine"], ids=str)
def test_imagenets_weights_that_are_not_there(train_model, monkeypatch, content):
    monkeypatch.setenv("KERAS_HOME", str(train_model.FOLDER))
    name = "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_0.35_96_no_top.h5"
    file = train_model.FOLDER / "models" / name
    file.parent.mkdir()
    if content is not None:
        create_small_model().save_weights(train_model.FOLDER / "a.weights.h5")
        whole = (train_model.FOLDER / "a.weights.h5").read_bytes()
        file.write_bytes(content and whole[: len(whole) // 2])

    def load(**options):
        if not file.exists():
            raise Exception(f"URL fetch failure on https://{name}: None -- [Errno -2] no name")
        if content == b"not mine":
            raise PermissionError(13, "Permission denied", str(file))
        h5py.File(file)

    train_model.create_model, train_model.MobileNetV2 = train_model.full_model, load
    train_model.WEIGHTS = "imagenet"
    if content == b"not mine":
        with pytest.raises(PermissionError):
            train_model.main()
        assert file.exists(), "it may be whole"
        return
    if content is not None:
        assert f"{file}.broken" in message_of(train_model.main)
    message = message_of(train_model.main)  # Keras would download a file that is gone
    assert "URL fetch failure" in message and str(file.parent) in message


def test_a_wrong_width_is_no_network_that_is_down(train_model, monkeypatch):
    monkeypatch.setenv("KERAS_HOME", str(train_model.FOLDER))
    train_model.create_model, train_model.WEIGHTS = train_model.full_model, "imagenet"
    train_model.ALPHA = 0.6
    with pytest.raises(ValueError, match="alpha"):  # Keras's own, without advice to download
        train_model.main()


KEPT = []  # errors and the variables of their functions, as notebooks keep them


def run(script, *arguments):
    """Run a script as a command in this process; return its exit message."""
    handler = signal.getsignal(signal.SIGINT)
    try:
        with pytest.MonkeyPatch.context() as monkeypatch:
            monkeypatch.setattr(sys, "argv", [str(script), *arguments])
            runpy.run_path(str(script), run_name="__main__")
    except SystemExit as stop:
        KEPT.append(stop)
        return stop.code
    finally:
        of_script = signal.signal(signal.SIGINT, handler)
        assert of_script == signal.SIG_DFL, "Ctrl-C would print a traceback, or end nothing"


def test_a_command_that_fails_says_so_in_a_line(train_model, csvs):
    folder = train_model.FOLDER
    edit(folder / "train_model.py", WEIGHTS=None, IMAGE_SIZE=96, ALPHA=0.35)
    create_small_model().save(folder / "model.keras")
    before = read_files(folder)
    assert "takes no arguments" in run(folder / "train_model.py", "--help")
    assert read_files(folder) == before
    (csvs / "images" / "Amber_Cat_1.jpg").unlink()
    for _ in range(2):  # the second time the folder must not be locked
        assert "Amber_Cat_1.jpg cannot be read" in run(folder / "train_model.py")
    (folder / "predictions").write_bytes(b"")
    message = run(folder / "evaluate_performance.py")
    assert message.startswith("evaluate_performance.py: ") and "predictions" in message


def test_names_that_the_console_cannot_print(train_model, evaluate_performance, monkeypatch):
    folder = train_model.FOLDER
    create_small_model().save(folder / "model.keras")
    photos = folder / "my photos"
    photos.mkdir()
    for name in ("Zoë.png".encode(), b"Zo\xeb.png"):  # the second is not UTF-8
        Image.new("RGB", (60, 40)).save(os.fsencode(photos) + b"/" + name, "png")
    console = io.TextIOWrapper(io.BytesIO(), "ascii", write_through=True)
    monkeypatch.setattr(sys, "stdout", console)
    assert run(folder / "evaluate_performance.py", str(photos)) is None
    printed = console.buffer.getvalue()
    assert rb"Zo\xeb.png: box " in printed and rb"Zo\udceb.png: box " in printed
    assert len((folder / "predictions.csv").read_text().splitlines()) == 3
    monkeypatch.setattr(sys, "stdout", io.StringIO())  # as Jupyter's, which has no encoding
    assert run(folder / "evaluate_performance.py", str(photos / "Zoë.png")) is None
