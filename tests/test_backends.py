"""The scripts run unchanged on each of Keras's backends that is installed, with the same numbers.

make test-backends    # with all three
"""

import functools
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

from scripts import REPOSITORY, import_example, read_windows

BACKENDS = [name for name in ("tensorflow", "jax", "torch") if importlib.util.find_spec(name)]

# Trains and evaluates each example. A process a backend: each import takes seconds.
CODE = """
import json, sys
from pathlib import Path
import keras, numpy as np, pytest
from scripts import import_example, newest_run, predict

project, summary = Path(sys.argv[1]), {}
for example in ("example_1", "example_2", "example_3"):
    monkeypatch = pytest.MonkeyPatch()
    train_model, evaluate_performance = import_example(project, example, monkeypatch)
    create_model, start = train_model.create_model, project / f"{example}.weights.h5"

    def create_model_from_the_same_weights(*class_count):
        model = create_model(*class_count)
        for layer in model.layers:
            if isinstance(layer, keras.layers.Dropout):
                layer.rate = 0  # each backend draws numbers of its own
        model.load_weights(start) if start.exists() else model.save_weights(start)
        return model

    train_model.create_model, train_model.EPOCHS = create_model_from_the_same_weights, 4
    train_model.BATCH_SIZE = train_model.WINDOWS_PER_EPOCH  # a step an epoch
    train_model.main()
    evaluate_performance.main()
    run = newest_run(project / example)
    losses = np.genfromtxt(run / "log.csv", delimiter=",", names=True)["loss"]
    predicted = keras.tree.flatten(predict(train_model, "train.csv")[1])[0]
    pictures = len([*(run / "predictions").iterdir()])
    summary[example] = [losses.tolist(), predicted.tolist(), pictures, str(run)]
    monkeypatch.undo()
print(json.dumps(summary))
"""


def start(code, *arguments, path="", **environment):
    """Start a Python process in which the tests' modules are found, and those in `path`."""
    environment["PYTHONPATH"] = f"{path}{os.pathsep}{REPOSITORY / 'tests' / 'support'}"
    command, pipe = [sys.executable, "-c", code, *arguments], subprocess.PIPE
    environment = os.environ | environment
    return subprocess.Popen(command, env=environment, stdout=pipe, stderr=pipe, text=True)


def finish(process):
    """Wait for a process, which must end well; return the last line that it printed."""
    printed, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors[-3000:]
    return printed.splitlines()[-1]


@functools.cache
def train(folder, backend):
    """Run CODE on a backend, once, and return what it found."""
    return json.loads(finish(start(CODE, folder, KERAS_BACKEND=backend)))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("example", ["example_1", "example_2", "example_3"])
def test_each_backend_trains_and_evaluates_with_the_same_numbers(
    drawn, monkeypatch, example, backend
):
    """From the same weights, with the same windows; this process loads each backend's model."""
    losses, predicted, pictures, run = train(drawn, backend)[example]
    assert len(losses) == 4 and pictures == 6
    expected, *_ = train(drawn, BACKENDS[0])[example]
    np.testing.assert_allclose(losses[0], expected[0], rtol=1e-3)
    np.testing.assert_allclose(losses, expected, rtol=0.05)
    train_model, _ = import_example(drawn, example, monkeypatch)
    model = keras.models.load_model(Path(run, "model.keras"), compile=False)
    rows = train_model.read_csv(Path(run, "train.csv"))
    found = keras.tree.flatten(model.predict(read_windows(train_model, rows, 96)))[0]
    np.testing.assert_allclose(found, predicted, atol=1e-3)
