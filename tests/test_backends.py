"""The scripts run unchanged on each of Keras's backends that is installed, with the same numbers.

make test-backends    # with all three
"""

import functools
import importlib.util
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

import draw_pets
from conftest import REPOSITORY

EXAMPLES = ("example_1", "example_2", "example_3")
BACKENDS = [name for name in ("tensorflow", "jax", "torch") if importlib.util.find_spec(name)]

SMALL = """
import csv, json, sys
from pathlib import Path
import keras, numpy as np, train_model

def read_log():
    with open("log.csv") as file:
        return [[float(cell) for cell in row] for row in list(csv.reader(file))[1:]]

train_model.WEIGHTS, train_model.ALPHA, train_model.FREEZE = None, 0.35, "none"
train_model.EPOCHS, train_model.BATCH_SIZE, train_model.IMAGE_SIZE = 2, 8, 96
train_model.CELLS = 12  # of example 3
"""

TRAIN_AND_EVALUATE = """
import evaluate_performance

create_model, start, steps = train_model.create_model, Path(sys.argv[1]), []

def create_model_from_the_same_weights():
    model = create_model()
    for layer in model.layers:
        if isinstance(layer, keras.layers.Dropout):
            layer.rate = 0  # each backend draws numbers of its own
    model.load_weights(start) if start.exists() else model.save_weights(start)
    return model

train_model.create_model = create_model_from_the_same_weights
train_model.Keeper.on_train_batch_end = lambda self, batch, logs: steps.append(logs["loss"])
train_model.main()
evaluate_performance.main()

(file,) = Path().glob("model-*.keras")
dataset = train_model.create_dataset("validation.csv")
answers = keras.tree.flatten(keras.models.load_model(file).predict(dataset, verbose=0))
answers = np.concatenate(answers, axis=1)
figure = keras.ops.convert_to_numpy(train_model.METRICS[0](dataset.targets, answers)).mean()
print(json.dumps([keras.backend.backend(), steps[0], read_log(), file.name, float(figure)]))
"""

RESUME = """
import contextlib, signal
from keras import layers

def create_small_backbone(input_tensor, input_shape, include_top, weights):
    features = input_tensor
    for strides in (4, 4, 2):
        features = layers.Conv2D(8, 3, strides, "same", use_bias=False)(features)
        features = layers.ReLU()(layers.BatchNormalization()(features))
    return keras.Model(keras.utils.get_source_inputs(input_tensor), features)

def interrupt(keeper, batch, logs=None):
    if len(keeper.epochs) == 1 and batch == 1:
        assert not interrupted, "the training went on"
        interrupted.append(True)
        with contextlib.suppress(KeyboardInterrupt):  # as keras.utils.pythonify_logs does
            signal.raise_signal(signal.SIGINT)

train_model.Backbone, train_model.EPOCHS, logs, interrupted = create_small_backbone, 3, [], []
train_model.main()
logs.append(read_log())
train_model.Keeper.on_train_batch_end = interrupt
train_model.main()
assert len(read_log()) == 1
del train_model.Keeper.on_train_batch_end
train_model.main()
print(json.dumps([*logs, read_log()]))
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Return a function that runs code in an example's folder on a backend, the same code once.

    It takes the backend, the example and the code, and returns what is printed last, as JSON.
    """
    project = tmp_path_factory.mktemp("project")
    shutil.copy(REPOSITORY / "generate_dataset.py", project)
    draw_pets.draw_dataset(project, 30)
    subprocess.run([sys.executable, project / "generate_dataset.py"], check=True, timeout=300)

    @functools.cache
    def run(backend, example, code):
        folder = project / example
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(REPOSITORY / example, folder, ignore=lambda *_: {"__pycache__"})
        done = subprocess.run(
            [sys.executable, "-c", SMALL + code, project / f"{example}.weights.h5"],
            cwd=folder,
            env={**os.environ, "KERAS_BACKEND": backend},
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert done.returncode == 0, done.stderr
        if code == TRAIN_AND_EVALUATE:
            assert len([*(folder / "predictions").glob("*.jpg")]) == 6
            assert (folder / "predictions.png").exists() and (folder / "curves.png").exists()
        return json.loads(done.stdout.splitlines()[-1])

    return run


@pytest.mark.parametrize("example", EXAMPLES)
@pytest.mark.parametrize("backend", BACKENDS)
def test_two_epochs_and_evaluation(run, backend, example):
    used, loss, log, file_name, figure = run(backend, example, TRAIN_AND_EVALUATE)
    assert used == backend
    assert loss > 0 and len(log) == 2 and np.isfinite(log).all()
    assert abs(figure - float(file_name[len("model-") : -len(".keras")])) < 0.0051


@pytest.mark.skipif(len(BACKENDS) < 2, reason="one backend only is installed: make test-backends")
@pytest.mark.parametrize("example", EXAMPLES)
def test_the_first_loss_is_the_same(run, example):
    """From the same weights, with the same batch: shuffling and augmentation are NumPy's."""
    losses = [run(backend, example, TRAIN_AND_EVALUATE)[1] for backend in BACKENDS]
    np.testing.assert_allclose(losses, losses[0], rtol=1e-3)


@pytest.mark.parametrize("backend", BACKENDS)
def test_ctrl_c_stops_and_the_same_command_goes_on(run, backend):
    """With example 2, which has dropout: what is drawn at random goes on too."""
    whole, resumed = run(backend, "example_2", RESUME)
    assert len(whole) == 3
    np.testing.assert_allclose(resumed, whole, rtol=1e-4)
