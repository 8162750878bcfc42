"""The scripts run unchanged on each of Keras's backends that is installed, with the same numbers.

make test-backends    # with all three
"""

import functools
import importlib.util
import json
import os
import shutil
import socket
import subprocess
import sys
import time

import keras
import numpy as np
import pytest

import recipes
from conftest import import_example

BACKENDS = [name for name in ("tensorflow", "jax", "torch") if importlib.util.find_spec(name)]
EXAMPLES = ("example_1", "example_2", "example_3")

# Trains each example, the second killed in its third epoch and gone on with, evaluates it, and
# answers with the models of the backends before. A process a backend: each import takes seconds.
CODE = """
import json, shutil, sys
from pathlib import Path
import keras, numpy as np, pytest
from conftest import create_short_backbone, import_example

project, summary = Path(sys.argv[1]), {"backend": keras.backend.backend()}
for example in ("example_1", "example_2", "example_3"):
    monkeypatch = pytest.MonkeyPatch()
    train_model, evaluate_performance = import_example(project, example, monkeypatch)
    folder, losses = train_model.FOLDER, []
    create_model, start = train_model.create_model, project / f"{example}.weights.h5"

    def create_model_from_the_same_weights():
        model = create_model()
        for layer in model.layers:
            if isinstance(layer, keras.layers.Dropout):
                layer.rate = 0  # each backend draws numbers of its own
        model.load_weights(start) if start.exists() else model.save_weights(start)
        return model

    class Killed(train_model.SaveBest):
        def on_train_batch_end(self, batch, logs):
            losses.append(float(logs["loss"]))

        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 2 and example == "example_2" and not train_model.RESUME:
                raise KeyboardInterrupt

    train_model.MobileNetV2, train_model.EPOCHS = create_short_backbone, 4
    train_model.BATCH_SIZE = 24  # one batch, in one order: TensorFlow shuffles once more
    train_model.PhotoDataset.on_epoch_end = lambda dataset: setattr(dataset, "epoch_seed", 0)
    train_model.create_model, train_model.SaveBest = create_model_from_the_same_weights, Killed
    if example == "example_2":
        with pytest.raises(KeyboardInterrupt):
            train_model.main()
        train_model.RESUME = True
    train_model.main()
    evaluate_performance.main()
    log = np.genfromtxt(folder / "log.csv", delimiter=",", names=True)
    shutil.copy(folder / "model.keras", project / f"{example}_{keras.backend.backend()}.keras")
    paths = train_model.read_csv("train.csv")[0]
    photos, answers = np.stack([train_model.load_photo(path) for path in paths]), {}
    for file in project.glob(f"{example}_*.keras"):
        model = keras.models.load_model(file, compile=False)
        answers[file.stem] = keras.tree.flatten(model.predict(photos))[0].tolist()
    pictures = len([*(folder / "predictions").iterdir()])
    summary[example] = [losses[0], log["epoch"].tolist(), log["loss"].tolist(), pictures, answers]
    monkeypatch.undo()
print(json.dumps(summary))
"""


@functools.cache
def run(folder, backend):
    """Run CODE on a backend, once, and return what it found."""
    done = subprocess.run(
        [sys.executable, "-c", CODE, folder],
        env={**os.environ, "KERAS_BACKEND": backend, "PYTHONPATH": os.path.dirname(__file__)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("backend", BACKENDS)
def test_trained_killed_resumed_and_evaluated(drawn, backend):
    summary = run(drawn, backend)
    assert summary["backend"] == backend
    for example in EXAMPLES:
        _, epochs, losses, pictures, _ = summary[example]
        assert epochs == [0, 1, 2, 3] and np.isfinite(losses).all() and pictures == 6


@pytest.mark.skipif(len(BACKENDS) < 2, reason="one backend only is installed: make test-backends")
@pytest.mark.parametrize("example", EXAMPLES)
def test_losses_and_answers_are_the_same(drawn, monkeypatch, example):
    """From the same weights, with the same batch; models are loaded on the backends after theirs.

    And on TensorFlow, which runs the tests.
    """
    firsts, _, losses, _, answers = zip(*(run(drawn, backend)[example] for backend in BACKENDS))
    np.testing.assert_allclose(firsts, firsts[0], rtol=1e-3)
    np.testing.assert_allclose(losses, np.tile(losses[0], (len(losses), 1)), rtol=0.05)
    train_model, _ = import_example(drawn, example, monkeypatch)
    paths = train_model.read_csv("train.csv")[0]
    photos = np.stack([np.asarray(train_model.load_photo(path)) for path in paths])
    for number, backend in enumerate(BACKENDS):
        name = f"{example}_{backend}"
        model = keras.models.load_model(drawn / f"{name}.keras", compile=False)
        for found in (*answers[number + 1 :], {name: keras.tree.flatten(model.predict(photos))[0]}):
            np.testing.assert_allclose(found[name], answers[number][name], atol=1e-2)


# Trains example 1 with the recipe for several devices, as one of two processes or as one alone.
DISTRIBUTED = """
import sys, conftest, keras, train_model
conftest.set_constants(train_model, **conftest.SHORT)
train_model.MobileNetV2 = conftest.create_short_backbone
train_model.AUGMENT, train_model.EPOCHS = False, int(sys.argv[1])
train_model.main()
print(len(keras.distribution.list_devices()), "devices")
"""
RECIPE = next(recipe for recipe in recipes.read_recipes() if recipe.name.startswith("Several GPUs"))
no_jax = pytest.mark.skipif("jax" not in BACKENDS, reason="jax is not installed")


@pytest.fixture
def start(csvs, tmp_path_factory):
    """Return a function that starts the recipe; each process has a copy of the scripts."""
    recipes.apply(RECIPE, csvs)
    folders = [csvs, tmp_path_factory.mktemp("other") / "machine"]
    shutil.copytree(*folders)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]

    def start(epochs, process=0, processes=1, devices=1):
        paths = folders[process] / "example_1", os.path.dirname(__file__)
        environment = {
            "KERAS_BACKEND": "jax",
            "PYTHONPATH": os.pathsep.join(map(str, paths)),
            "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
        }
        if processes > 1:
            addresses = f"127.0.0.1:{port},127.0.0.1:{port + 1}"
            environment["KERAS_DISTRIBUTION_JOB_ADDRESSES"] = addresses
            environment["KERAS_DISTRIBUTION_NUM_PROCESSES"] = str(processes)
            environment["KERAS_DISTRIBUTION_PROCESS_ID"] = str(process)
        command = [sys.executable, "-c", DISTRIBUTED, str(epochs)]
        out = subprocess.PIPE
        return subprocess.Popen(command, env=os.environ | environment, stdout=out, stderr=out)

    start.folders = folders
    return start


def finish(process):
    """Wait for a process, which must end well; return what it printed."""
    printed, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors.decode()[-3000:]
    return printed.decode()


def read_weights(folder):
    model = keras.models.load_model(folder / "example_1" / "model.keras", compile=False)
    return np.concatenate([weight.ravel() for weight in model.get_weights()])


@no_jax
def test_two_machines_and_two_devices_train_as_one(start):
    """24 photos in batches of 8: a photo that is seen twice or not at all changes the weights."""
    first, second = start.folders
    before = sorted(second.rglob("*"))
    assert "1 devices" in finish(start(2))
    one = read_weights(first)
    assert "2 devices" in finish(start(2, devices=2))
    np.testing.assert_allclose(read_weights(first), one, atol=1e-3)
    pair = [start(2, process, processes=2) for process in (0, 1)]
    assert all("2 devices" in finish(process) for process in pair)
    np.testing.assert_allclose(read_weights(first), one, atol=1e-3)
    assert [path for path in sorted(second.rglob("*")) if "__pycache__" not in path.parts] == before


@no_jax
def test_a_killed_machine_ends_the_other(start):
    pair = [start(500, process, processes=2) for process in (0, 1)]
    log, deadline = start.folders[0] / "example_1" / "log.csv", time.monotonic() + 200
    while not log.exists():
        assert time.monotonic() < deadline and pair[0].poll() is None
        time.sleep(0.1)
    pair[1].kill()
    pair[0].communicate(timeout=240)
    assert pair[0].returncode != 0
    pair[1].communicate()
