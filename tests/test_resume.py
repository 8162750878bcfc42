"""An interrupted training goes on where it stopped, as if nothing had happened."""

import csv
import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from conftest import create_small_model, message_of

SHORT = {"WEIGHTS": None, "ALPHA": 0.35, "FREEZE": "none", "IMAGE_SIZE": 96, "BATCH_SIZE": 8}


def set_constants(train_model, **constants):
    """Set constants for a short run, and these."""
    for name, value in {**SHORT, "EPOCHS": 2, **constants}.items():
        setattr(train_model, name, value)


def read_log(folder):
    """Return log.csv: its column names, and its numbers as an array."""
    with open(folder / "log.csv", newline="") as log:
        rows = list(csv.reader(log))
    return rows[0], np.array(rows[1:], float)


def file_names(folder):
    """Return the names of what a training left, sorted."""
    files = [file.name for file in folder.iterdir() if file.suffix not in (".py", "")]
    return sorted(files)


def clean(folder):
    """Delete what a training left."""
    for name in file_names(folder):
        (folder / name).unlink()


def interrupt(train_model, monkeypatch, epochs):
    """Train, with a Ctrl-C in the middle of the epoch after `epochs` epochs."""

    def stop(keeper, batch, logs=None):
        if len(keeper.epochs) == epochs and batch == 1:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(train_model.Keeper, "on_train_batch_end", stop, raising=False)
        train_model.main()


@pytest.mark.usefixtures("short_backbone")
@pytest.mark.parametrize(
    "constants",
    [
        {"AUGMENT": False, "FREEZE": "all"},
        {"EPOCHS": 4, "HEAD": "conv", "SCHEDULE": "plateau", "OPTIMIZER": "sgd"},
    ],
)
def test_a_resumed_training_is_the_training(csvs, train_model, monkeypatch, capsys, constants):
    set_constants(train_model, **constants)
    if train_model.HEAD == "conv":
        monkeypatch.setattr(train_model, "create_model", create_small_model)
    train_model.main()
    expected, expected_files = read_log(train_model.FOLDER), file_names(train_model.FOLDER)
    clean(train_model.FOLDER)
    interrupt(train_model, monkeypatch, epochs=1)
    assert "the same command goes on" in capsys.readouterr().out
    assert len(read_log(train_model.FOLDER)[1]) == 1
    assert "training.npz" in file_names(train_model.FOLDER)
    train_model.main()
    assert "Going on after epoch 1." in capsys.readouterr().out
    names, rows = read_log(train_model.FOLDER)
    assert names == expected[0]
    np.testing.assert_allclose(rows, expected[1], rtol=1e-3, atol=1e-3)
    assert file_names(train_model.FOLDER) == expected_files


def test_another_training_starts_anew(csvs, train_model, monkeypatch, capsys):
    set_constants(train_model, EPOCHS=2, HEAD="conv", AUGMENT=False)
    monkeypatch.setattr(train_model, "create_model", create_small_model)
    interrupt(train_model, monkeypatch, epochs=1)
    (model_file,) = train_model.FOLDER.glob("model-*.keras")
    model_file.rename(model_file.with_name("model-2.00.keras"))  # not by chance the new one's name
    train_model.LEARNING_RATE *= 2
    interrupt(train_model, monkeypatch, epochs=1)
    assert "other constants or CSVs: starting anew" in capsys.readouterr().out
    rows = (csvs / "train.csv").read_text().splitlines()
    (csvs / "train.csv").write_text("\n".join(rows[:-1]) + "\n")
    interrupt(train_model, monkeypatch, epochs=1)
    assert "other constants or CSVs: starting anew" in capsys.readouterr().out
    train_model.RESUME = False
    train_model.main()
    assert "Going on" not in capsys.readouterr().out
    assert len(read_log(train_model.FOLDER)[1]) == 2
    assert (train_model.FOLDER / "model-2.00.keras").exists()
    train_model.RESUME = True
    message_of(lambda: interrupt(train_model, monkeypatch, epochs=0))
    assert "Going on" not in capsys.readouterr().out, "a finished training was gone on with"


def test_models_of_older_trainings_stay(csvs, train_model, evaluate_performance, monkeypatch):
    set_constants(train_model, EPOCHS=2, HEAD="conv", AUGMENT=False)
    monkeypatch.setattr(train_model, "create_model", create_small_model)
    older = [train_model.FOLDER / f"model-0.{number:02}.keras" for number in range(100)]
    for file in older:  # the new model's figure is one of these
        file.write_bytes(b"older")
    interrupt(train_model, monkeypatch, epochs=1)
    train_model.main()  # goes on: what is older is remembered
    assert all(file.read_bytes() == b"older" for file in older)
    (new,) = set(train_model.FOLDER.glob("model-*.keras")) - set(older)
    best = read_log(train_model.FOLDER)
    best = best[1][:, best[0].index("val_iou")].max()
    assert new.name == f"model-{best:.2f}-2.keras"
    for file in older:
        if file.name > f"model-{best:.2f}.keras":
            file.unlink()
    assert evaluate_performance.find_model_file() == new


def test_of_models_with_one_number_the_newest_is_taken(train_model, evaluate_performance):
    for age, name in enumerate(["0.75-10", "0.75-9", "0.75-2", "0.75", "0.74-11"]):
        file = train_model.FOLDER / f"model-{name}.keras"
        file.touch()
        os.utime(file, (1e9 - age, 1e9 - age))
    assert evaluate_performance.find_model_file().name == "model-0.75-10.keras"


def test_half_files_of_killed_trainings_are_deleted(csvs, train_model, monkeypatch):
    set_constants(train_model, EPOCHS=1, HEAD="conv")
    monkeypatch.setattr(train_model, "create_model", create_small_model)
    killed, at_work = (train_model.FOLDER / f"new-{pid}-training.npz" for pid in (1, 2))
    for file in (killed, at_work):
        file.write_bytes(b"half")
    os.utime(killed, (1e9, 1e9))
    train_model.main()
    assert not killed.exists() and at_work.exists()


@pytest.mark.parametrize("content", [b"", b"no arrays", b"PK\x03\x04"], ids=str)
def test_a_broken_state_is_named(csvs, train_model, content):
    (train_model.FOLDER / "training.npz").write_bytes(content)
    assert "training.npz cannot be read" in message_of(train_model.main)


def test_a_loss_that_is_no_number_stops_with_advice(csvs, train_model, monkeypatch):
    set_constants(train_model, LEARNING_RATE=1e30, LOSS="mse", HEAD="conv")
    monkeypatch.setattr(train_model, "create_model", create_small_model)
    assert "try a smaller LEARNING_RATE" in message_of(train_model.main)
    assert not (train_model.FOLDER / "training.npz").exists()


@pytest.mark.usefixtures("short_backbone")
def test_after_sigkill_the_same_command_goes_on(csvs, example):
    folder = csvs / example
    script = folder / "train_model.py"
    text = script.read_text()
    constants = {**SHORT, "EPOCHS": 30, "FREEZE": "all", "HEAD": "conv", "AUGMENT": False}
    for name, value in constants.items():
        text, count = re.subn(rf"^{name} = \S+", f"{name} = {value!r}", text, flags=re.MULTILINE)
        assert count == 1
    script.write_text(text)
    with open(csvs / "printed.txt", "w") as printed:
        process = subprocess.Popen([sys.executable, script], stdout=printed, stderr=printed)
    deadline = time.monotonic() + 120
    log = folder / "log.csv"
    while not log.exists() or len(log.read_text().splitlines()) < 4:
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait(timeout=60)
    with np.load(folder / "training.npz") as state:
        assert state["known"].item().count('"loss"') >= 2
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert re.search(r"Going on after epoch \d+", done.stdout)
    assert f"Epoch {constants['EPOCHS']}/{constants['EPOCHS']}" in done.stdout
    assert "Epoch 1/" not in done.stdout
    names, rows = read_log(folder)
    assert rows[:, names.index("epoch")].tolist() == list(range(constants["EPOCHS"]))
    best = rows[:, [name.startswith("val_") and name != "val_loss" for name in names]].max(axis=0)
    (model_file,) = folder.glob("model-*.keras")
    assert any(model_file.name == f"model-{value:.2f}.keras" for value in best)
