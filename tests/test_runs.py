"""Each training has a folder: kills, RESUME, older runs, and what the commands say in a line."""

import datetime
import io
import itertools
import runpy
import shutil
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image

from checks import message_of
from scripts import create_small_model, make_run, newest_run, read_csvs, set_constants

pytestmark = pytest.mark.usefixtures("eagerly")
EXAMPLES = ("example_1", "example_2", "example_3")


class Clock:
    """Stands in for `datetime`: each time that it is asked, a second has passed."""

    def __init__(self):
        self.time = datetime.datetime(2026, 11, 29, 14, 3, 5)

    def now(self):
        self.time += datetime.timedelta(seconds=1)
        return self.time


def create_model_of(example):
    """Return a network for an example that trains in no time."""
    model = create_small_model()
    if example == "example_2":
        classes = keras.layers.Dense(4, activation="softmax", name="classes")(model.output)
        return keras.Model(model.input, {"coords": model.output, "classes": classes})
    if example == "example_3":
        cells = keras.layers.Dense(144, activation="sigmoid")(model.output)
        return keras.Model(model.input, keras.layers.Reshape((12, 12))(cells))
    return model


@pytest.fixture
def train_model(csvs, train_model, example):
    set_constants(train_model, EPOCHS=4, LEARNING_RATE=0.1, datetime=Clock())
    train_model.create_model = lambda *_: create_model_of(example)
    return train_model


def read_log(run):
    return np.atleast_1d(np.genfromtxt(run / "log.csv", delimiter=",", names=True))


def read_files(folder):
    """Return the bytes of all files below a folder, by name."""
    return {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def read_weights(train_model, run):
    """Return the weights of a run's model, and the steps that its optimizer has done."""
    names = ("box_loss", "iou", "focal_loss", "grid_loss", "dice_coefficient")
    functions = {name: getattr(train_model, name, None) for name in names}
    model = keras.models.load_model(run / "model.keras", functions)
    return model.get_weights(), int(model.optimizer.iterations)


def kill(train_model, monkeypatch, moment):
    """Train until a kill in the third epoch: in its save, before the rename, or before the log."""
    save, replace, calls = keras.Model.save, Path.replace, []

    def stop_in_save(model, path):
        calls.append(path)
        save(model, path)
        if len(calls) == 3 and moment == "half a save":
            Path(path).write_bytes(b"half a model")
            raise KeyboardInterrupt

    def stop_in_replace(file, target):
        if len(calls) < 3 or moment == "the log":
            replace(file, target)
        if len(calls) == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(keras.Model, "save", stop_in_save)
        patched.setattr(Path, "replace", stop_in_replace)
        train_model.main()


@pytest.mark.parametrize(
    ("example", "moment"),
    [(example, "half a save") for example in EXAMPLES]
    + [("example_1", moment) for moment in ("the rename", "the log")],
)
def test_after_a_kill_weights_and_log_become_those_of_four_epochs_in_one_go(
    train_model, monkeypatch, moment
):
    """Whatever becomes of the CSVs in between: the run has its own."""
    train_model.main()
    whole = newest_run(train_model.RUNS.parent)
    expected, steps = read_weights(train_model, whole)
    kill(train_model, monkeypatch, moment)
    run = newest_run(train_model.RUNS.parent)
    assert read_weights(train_model, run)[1] == steps // 4 * (3 if moment == "the log" else 2)
    (train_model.ROOT / "train.csv").write_text("other photos")
    (train_model.ROOT / "validation.csv").unlink()
    train_model.RESUME = run.name
    train_model.main()
    found, found_steps = read_weights(train_model, run)
    assert found_steps == steps == 4 * 3
    for pair in zip(found, expected, strict=True):
        np.testing.assert_allclose(*pair, rtol=1e-3, atol=1e-3)
    epochs = [0, 1, 3] if moment == "the log" else [0, 1, 2, 3]
    log, losses = read_log(run), read_log(whole)["val_loss"]
    assert log["epoch"].tolist() == epochs, "no epoch twice"
    np.testing.assert_allclose(log["val_loss"], losses[epochs], rtol=1e-3)
    assert (run / "curves.png").exists()


def test_a_finished_training_goes_on_with_more_epochs_and_other_windows(train_model, monkeypatch):
    batches, get = set(), train_model.PhotoDataset.__getitem__

    def remember(dataset, index):
        if dataset.training:
            batches.add((dataset.epoch, index))
        return get(dataset, index)

    monkeypatch.setattr(train_model.PhotoDataset, "__getitem__", remember)
    for train_model.EPOCHS in (2, 3, 5):
        train_model.main()
        run = newest_run(train_model.RUNS.parent)
        train_model.RESUME = run.name
        assert read_log(run)["epoch"].tolist() == [*range(train_model.EPOCHS)]
        assert read_weights(train_model, run)[1] == 3 * train_model.EPOCHS
    with pytest.raises(AssertionError, match="RESUME: all epochs are done"):
        train_model.main()  # or else nothing is trained, and nothing says so
    assert [*train_model.RUNS.iterdir()] == [run]
    assert batches == {*itertools.product(range(5), range(3))}, "each epoch has windows of its own"


def test_a_training_and_an_evaluation_leave_other_runs_as_they_were(
    train_model, evaluate_performance, csvs
):
    """Even of the same second: then the second training ends."""
    train_model.EPOCHS = 1
    train_model.main()
    evaluate_performance.main()
    first = newest_run(train_model.RUNS.parent)
    names = {file.name for file in first.iterdir()}
    assert names == {
        *("train.csv", "validation.csv", "batch.jpg", "log.csv", "curves.png", "model.keras"),
        *("predictions", "predictions.csv", "predictions.png"),
    }
    (first / "mine.txt").write_text("mine")
    for file in csvs.glob("*.csv"):
        assert (first / file.name).read_bytes() == file.read_bytes()
    before = read_files(first)
    train_model.main()
    evaluate_performance.main()
    assert newest_run(train_model.RUNS.parent) != first
    train_model.datetime.time -= datetime.timedelta(seconds=2)
    with pytest.raises(FileExistsError):
        train_model.main()
    assert read_files(first) == before


def test_the_newest_run_with_a_model_is_evaluated_by_its_own_csvs(
    train_model, evaluate_performance, csvs, capsys
):
    """Else a model would be judged by photos that it was trained on."""
    model = create_small_model()
    older = make_run(train_model, model, "2026-11-01_10-00-00")
    training, validation = read_csvs(csvs)
    for file in csvs.glob("*.csv"):
        file.write_text("another split")
    shutil.copytree(older, train_model.RUNS / "best")
    expected = make_run(train_model, model, "2026-11-02_09-00-00")
    for file in older.glob("*.csv"):
        shutil.copy(file, expected)
    begun = make_run(train_model, name="2026-11-03_08-00-00")
    (begun / "model.keras").unlink()
    for evaluate_performance.RUN, run in ((None, expected), ("best", train_model.RUNS / "best")):
        before = {*train_model.RUNS.rglob("predictions.csv")}
        evaluate_performance.main()
        written = {*train_model.RUNS.rglob("predictions.csv")}
        assert written - before == {run / "predictions.csv"}
        text = (run / "predictions.csv").read_text()
        assert all(f"{csvs}/{row['path']}" in text for row in validation)
        assert f"train.csv: {len(training)} photos" in capsys.readouterr().out


def test_a_loss_that_is_no_number_ends_the_training(train_model):
    train_model.LEARNING_RATE = np.nan
    with pytest.raises(RuntimeError, match="NaN"):
        train_model.main()
    assert not [*train_model.RUNS.rglob("model.keras")]


def test_without_a_csv_a_run_or_a_photo_a_line_says_what_to_do(
    train_model, evaluate_performance, csvs
):
    message = message_of(evaluate_performance.main)
    assert message.startswith("There is no model in ") and message.endswith("run train_model.py.")
    run = make_run(train_model, create_small_model())
    evaluate_performance.main()
    pictures = read_files(run)
    message = message_of(lambda: evaluate_performance.main(["hollyday"]))
    assert message == "There is no photo or folder hollyday."
    assert read_files(run) == pictures, "a typo deletes nothing"
    names = [str(csvs / "train_model.py"), str(csvs / "train.csv")]
    (csvs / "train_model.py").touch()
    assert message_of(lambda: evaluate_performance.main(names)).endswith("can be read.")
    assert read_files(run) == pictures
    (csvs / "train.csv").unlink()
    before = read_files(csvs)
    assert message_of(train_model.main) == "train.csv does not exist: run generate_dataset.py."
    assert read_files(csvs) == before


@pytest.mark.parametrize("example", EXAMPLES)
def test_a_command_that_fails_says_so_in_a_line(train_model, csvs, monkeypatch, example):
    script, photo = csvs / example / "train_model.py", csvs / "images" / "Amber_Cat_1.jpg"
    backbone = "keras.applications.mobilenet_v2.MobileNetV2"

    def run(script, *arguments):
        monkeypatch.setattr(sys, "argv", [str(script), *arguments])
        message = message_of(lambda: runpy.run_path(str(script), run_name="__main__"))
        shutil.rmtree(train_model.RUNS)
        return message

    def interrupt(**options):
        raise KeyboardInterrupt

    monkeypatch.setattr(backbone, interrupt)
    assert run(script) == "train_model.py: interrupted"
    Image.new("RGB", (100, 900)).save(photo)  # another photo, in place of this one
    assert "Amber_Cat_1.jpg is not in proportion to the CSV's size" in run(script)
    photo.unlink()
    assert "Amber_Cat_1.jpg cannot be read" in run(script)
    a_run = make_run(train_model)
    (a_run / "validation.csv").unlink()
    monkeypatch.setattr(keras.models, "load_model", lambda *_, **__: None)
    (a_run / "classes.json").write_text('["cat"]')
    monkeypatch.setattr(sys, "stdout", io.StringIO())  # as Jupyter's, which has no reconfigure
    message = run(script.with_name("evaluate_performance.py"))
    assert message.startswith("evaluate_performance.py: ") and "validation.csv" in message
