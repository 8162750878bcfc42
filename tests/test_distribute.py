"""DISTRIBUTE = True trains on several devices as on one: proven without GPUs.

TensorFlow with two logical CPU devices, JAX with two virtual ones in one process, and JAX with two
processes on this machine, each in a checkout of its own, as on two machines.
"""

import csv
import importlib.util
import itertools
import os
import shutil
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

from conftest import message_of

BACKENDS = [
    pytest.param(
        name,
        marks=pytest.mark.skipif(
            importlib.util.find_spec(name) is None, reason=f"{name} is not installed"
        ),
    )
    for name in ("tensorflow", "jax")
]
STEPS = 3  # an epoch: 24 photos, 8 in a batch

# Nothing here depends on which photos batch normalization sees together: that differs.
CODE = """
import os, sys
import keras
if keras.backend.backend() == "tensorflow":
    import tensorflow as tf
    (cpu,) = tf.config.list_physical_devices("CPU")
    half = tf.config.LogicalDeviceConfiguration()
    tf.config.set_logical_device_configuration(cpu, [half, half])
import train_model
train_model.ALPHA, train_model.WEIGHTS, train_model.HEAD = 0.35, "start.weights.h5", "conv"
train_model.AUGMENT, train_model.BATCH_SIZE = False, 8
if not (train_model.ROOT / "start.weights.h5").exists():
    start = train_model.Backbone((96, 96, 3), 0.35, include_top=False, weights=None)
    start.save_weights(train_model.ROOT / "start.weights.h5")
for argument in sys.argv[1:]:
    train_model.DISTRIBUTE, train_model.EPOCHS = argument[0] == "D", int(argument[1:])
    train_model.main()
    os.rename(train_model.FOLDER / "log.csv", train_model.FOLDER / f"log-{argument}.csv")
"""


def start(project, backend, *arguments, process=None, port=0):
    """Train in a process of its own, for each argument: "D" or "O" (one device), and the epochs."""
    environment = {**os.environ, "KERAS_BACKEND": backend}
    environment["XLA_FLAGS"] = "--xla_force_host_platform_device_count=2"
    if process is not None:
        del environment["XLA_FLAGS"]
        environment["KERAS_DISTRIBUTION_JOB_ADDRESSES"] = f"127.0.0.1:{port},127.0.0.1:{port + 1}"
        environment["KERAS_DISTRIBUTION_NUM_PROCESSES"] = "2"
        environment["KERAS_DISTRIBUTION_PROCESS_ID"] = str(process)
    return subprocess.Popen(
        [sys.executable, "-c", CODE, *arguments],
        cwd=project / "example_1",
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process):
    """Wait for a process, which must end well; return what it printed."""
    printed, _ = process.communicate(timeout=300)
    assert process.returncode == 0, printed
    return printed


def read_log(project, argument):
    """Return a log as an array: epochs x columns."""
    with open(project / "example_1" / f"log-{argument}.csv", newline="") as log:
        return np.array(list(csv.reader(log))[1:], float)


def free_port():
    """Return the number of a port that nothing listens at."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@pytest.mark.parametrize("backend", BACKENDS)
def test_two_devices_are_as_one(csvs, backend):
    printed = finish(start(csvs, backend, "D2", "O2"))  # six steps
    assert printed.count("2 devices.") == 1 and f"{STEPS}/{STEPS}" in printed
    np.testing.assert_allclose(read_log(csvs, "D2"), read_log(csvs, "O2"), rtol=1e-3)


@pytest.fixture
def two_machines(csvs, tmp_path_factory):
    """Return two copies of `csvs` whose networks start with the same weights."""
    other = tmp_path_factory.mktemp("other") / "checkout"
    finish(start(csvs, "jax", "O2"))
    shutil.copytree(csvs, other)
    return csvs, other


@pytest.mark.skipif(importlib.util.find_spec("jax") is None, reason="jax is not installed")
def test_two_processes_are_as_one_and_the_first_writes(two_machines):
    first, second = two_machines
    before = sorted(second.rglob("*"))
    port = free_port()
    pair = [
        start(folder, "jax", "D2", process=number, port=port)
        for number, folder in enumerate(two_machines)
    ]
    # The second has no log to rename, which ends it with an error after its training.
    printed, errors = finish(pair[0]), pair[1].communicate(timeout=300)[0]
    assert "2 devices." in printed and "2 devices." in errors
    assert "FileNotFoundError" in errors.splitlines()[-1]
    np.testing.assert_allclose(read_log(first, "D2"), read_log(first, "O2"), rtol=1e-3)
    after = [path for path in sorted(second.rglob("*")) if "__pycache__" not in path.parts]
    assert after == [path for path in before if "__pycache__" not in path.parts]


@pytest.mark.skipif(importlib.util.find_spec("jax") is None, reason="jax is not installed")
@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_process_ends_the_other(two_machines, victim):
    port = free_port()
    pair = [
        start(folder, "jax", "D500", process=number, port=port)
        for number, folder in enumerate(two_machines)
    ]
    log, deadline = two_machines[0] / "example_1" / "log.csv", time.monotonic() + 200
    while not log.exists():
        assert time.monotonic() < deadline and pair[0].poll() is None
        time.sleep(0.1)
    pair[victim].kill()
    printed, _ = pair[1 - victim].communicate(timeout=240)
    assert pair[1 - victim].returncode != 0, printed
    pair[victim].communicate()


@pytest.mark.parametrize(("devices", "processes"), [(1, 1), (2, 1), (2, 2), (4, 2)])
@pytest.mark.parametrize("photos", [24, 22])
def test_every_photo_is_seen_once_an_epoch(csvs, train_model, devices, processes, photos):
    paths, targets = [f"photo {index}" for index in range(photos)], np.zeros((photos, 4))
    targets[:, 0] = range(photos)
    train_model.INMEMORY = True
    train_model.load_photo = lambda path, size: np.zeros((size, size, 3), "uint8")
    train_model.AUGMENT = False
    shares = [(devices, processes, process) for process in range(processes)]
    parts = [train_model.PhotoDataset(paths, targets, True, share) for share in shares]
    for _ in range(2):
        seen = []
        for index in range(len(parts[0])):
            batches = [part[index][1][:, 0].tolist() for part in parts]
            assert len({len(batch) for batch in batches}) == 1
            assert sum(map(len, batches)) % devices == 0
            seen += itertools.chain.from_iterable(batches)
        assert len(parts[0]) == STEPS
        assert set(seen) == set(range(photos)) and len(seen) - photos < devices
        for part in parts:
            part.on_epoch_end()


def test_one_device_trains_as_usual(csvs, train_model, capsys):
    train_model.DISTRIBUTE, train_model.FREEZE, train_model.HEAD = True, "all", "conv"
    train_model.main()
    assert "One device: it trains as usual." in capsys.readouterr().out
    assert [*train_model.FOLDER.glob("model-*.keras")]


def test_batches_that_cannot_be_shared_out_stop_with_one_line(train_model, monkeypatch):
    tf = pytest.importorskip("tensorflow")
    train_model.DISTRIBUTE, train_model.BATCH_SIZE = True, 7
    monkeypatch.setattr(tf.config, "list_logical_devices", lambda kind: [f"{kind}:0", f"{kind}:1"])
    monkeypatch.setattr(tf.distribute, "MirroredStrategy", lambda devices: tf.distribute.Strategy)
    monkeypatch.setattr(tf.distribute.Strategy, "scope", lambda: None)
    assert "BATCH_SIZE = 7 must be a multiple of the 2 devices" in message_of(
        train_model.distribute
    )
