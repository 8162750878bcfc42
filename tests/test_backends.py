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

from scripts import REPOSITORY, import_example, predict

BACKENDS = [name for name in ("tensorflow", "jax", "torch") if importlib.util.find_spec(name)]

# Trains and evaluates each example. A process a backend: each import takes seconds.
CODE = """
import json, sys
from pathlib import Path
import keras, numpy as np, pytest
from scripts import create_short_backbone, import_example, predict

project, backend, summary = Path(sys.argv[1]), keras.backend.backend(), {}
for example in ("example_1", "example_2", "example_3"):
    monkeypatch = pytest.MonkeyPatch()
    train_model, evaluate_performance = import_example(project, example, monkeypatch)
    folder, create_model = train_model.FOLDER, train_model.create_model
    start = project / f"{example}.weights.h5"

    def create_model_from_the_same_weights(*class_count):
        model = create_model(*class_count)
        for layer in model.layers:
            if isinstance(layer, keras.layers.Dropout):
                layer.rate = 0  # each backend draws numbers of its own
        model.load_weights(start) if start.exists() else model.save_weights(start)
        return model

    train_model.MobileNetV2, train_model.EPOCHS = create_short_backbone, 4
    train_model.BATCH_SIZE = train_model.WINDOWS_PER_EPOCH  # one batch: Keras shuffles them
    train_model.create_model = create_model_from_the_same_weights
    train_model.main()
    evaluate_performance.main()
    losses = np.genfromtxt(folder / "log.csv", delimiter=",", names=True)["loss"]
    predicted = keras.tree.flatten(predict(train_model, "train.csv")[1])[0]
    pictures = len([*(folder / "predictions").iterdir()])
    summary[example] = [losses.tolist(), predicted.tolist(), pictures]
    (folder / "model.keras").rename(project / f"{example}_{backend}.keras")
    monkeypatch.undo()
print(json.dumps(summary))
"""


def start(code, *arguments, path="", **environment):
    """Start a Python process in which the tests' modules are found, and those in `path`."""
    environment["PYTHONPATH"] = f"{path}{os.pathsep}{REPOSITORY / 'tests' / 'support'}"
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


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
    """From the same weights, with the same batch; this process loads each backend's model."""
    losses, predicted, pictures = train(drawn, backend)[example]
    assert len(losses) == 4 and pictures == 6
    expected, *_ = train(drawn, BACKENDS[0])[example]
    np.testing.assert_allclose(losses[0], expected[0], rtol=1e-3)
    np.testing.assert_allclose(losses, expected, rtol=0.05)
    train_model, _ = import_example(drawn, example, monkeypatch)
    shutil.copy(drawn / f"{example}_{backend}.keras", train_model.FOLDER / "model.keras")
    found = keras.tree.flatten(predict(train_model, "train.csv")[1])[0]
    np.testing.assert_allclose(found, predicted, atol=1e-2)


# Trains example 1 with the recipe for several devices, as one of two processes or as one alone.
DISTRIBUTED = """
import sys, scripts, keras, train_model
scripts.set_constants(train_model, **scripts.SHORT)
train_model.MobileNetV2 = scripts.create_short_backbone
train_model.AUGMENT, train_model.EPOCHS = False, int(sys.argv[1])
train_model.main()
print(len(keras.distribution.list_devices()), "devices")
"""


@pytest.mark.skipif("jax" not in BACKENDS, reason="jax is not installed")
def test_two_machines_and_two_devices_train_as_one_and_end_together(csvs, tmp_path_factory):
    """24 windows in batches of 8: one that is seen twice or not at all changes the weights."""
    recipe = REPOSITORY / "example_1/recipes/several_gpus.diff"
    subprocess.run(["git", "apply", recipe], cwd=csvs, check=True)
    machines = [csvs, tmp_path_factory.mktemp("other") / "machine"]
    shutil.copytree(*machines)
    before = sorted(machines[1].rglob("*"))

    def start_machine(number=0, devices=1, epochs=2, **environment):
        flags = f"--xla_force_host_platform_device_count={devices}"
        environment |= {"KERAS_BACKEND": "jax", "XLA_FLAGS": flags}
        path = machines[number] / "example_1"
        return start(DISTRIBUTED, str(epochs), path=path, **environment)

    def read_weights():
        file = csvs / "example_1" / "model.keras"
        model = keras.models.load_model(file, compile=False)
        return np.concatenate([weight.ravel() for weight in model.get_weights()])

    assert finish(start_machine()) == "1 devices"
    one = read_weights()
    assert finish(start_machine(devices=2)) == "2 devices"
    np.testing.assert_allclose(read_weights(), one, atol=1e-3)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    pair = {
        "KERAS_DISTRIBUTION_JOB_ADDRESSES": f"127.0.0.1:{port},127.0.0.1:{port + 1}",
        "KERAS_DISTRIBUTION_NUM_PROCESSES": "2",
    }

    def start_pair(epochs):
        return [
            start_machine(number, epochs=epochs, KERAS_DISTRIBUTION_PROCESS_ID=str(number), **pair)
            for number in (0, 1)
        ]

    assert [finish(process) for process in start_pair(epochs=2)] == ["2 devices"] * 2
    np.testing.assert_allclose(read_weights(), one, atol=1e-3)
    after = sorted(machines[1].rglob("*"))
    its_own = ("__pycache__", "process_1")
    assert [path for path in after if not any(name in path.parts for name in its_own)] == before

    log, deadline = csvs / "example_1" / "log.csv", time.monotonic() + 200
    log.unlink()
    first, second = start_pair(epochs=500)
    while not log.exists():
        assert time.monotonic() < deadline and first.poll() is None
        time.sleep(0.1)
    second.kill()
    first.communicate(timeout=240)
    assert first.returncode != 0, "it would wait for ever"
    second.communicate()
