"""The scripts run unchanged on each of Keras's backends that is installed, with the same numbers.

make test-backends    # with all three
"""

import functools
import importlib.util
import itertools
import json
import os
import subprocess
import sys

import numpy as np
import pytest

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
    train_model.PhotoDataset.on_epoch_end = lambda dataset: None
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


@pytest.fixture(scope="module")
def run(drawn):
    """Return a function that runs CODE on a backend, once, and returns what it found."""

    @functools.cache
    def run(backend):
        path = os.path.dirname(__file__)
        done = subprocess.run(
            [sys.executable, "-c", CODE, drawn],
            env={**os.environ, "KERAS_BACKEND": backend, "PYTHONPATH": path},
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    return run


@pytest.mark.parametrize("backend", BACKENDS)
def test_trained_killed_resumed_and_evaluated(run, backend):
    summary = run(backend)
    assert summary["backend"] == backend
    for example in EXAMPLES:
        _, epochs, losses, pictures, _ = summary[example]
        assert epochs == [0, 1, 2, 3] and np.isfinite(losses).all() and pictures == 6


@pytest.mark.skipif(len(BACKENDS) < 2, reason="one backend only is installed: make test-backends")
def test_the_losses_are_the_same(run):
    """From the same weights, with the same batch: augmentation is NumPy's and Pillow's."""
    for example in EXAMPLES:
        firsts, losses = zip(*((run(b)[example][0], run(b)[example][2]) for b in BACKENDS))
        np.testing.assert_allclose(firsts, firsts[0], rtol=1e-3)
        for loss in losses:
            np.testing.assert_allclose(loss, losses[0], rtol=0.05)


@pytest.mark.skipif(len(BACKENDS) < 2, reason="one backend only is installed: make test-backends")
def test_a_model_of_one_backend_answers_the_same_in_another(run):
    for example in EXAMPLES:
        answers = [run(backend)[example][4] for backend in BACKENDS]
        for one, other in itertools.combinations(answers, 2):
            assert set(one) < set(other)
            for name in one:
                np.testing.assert_allclose(other[name], one[name], atol=1e-2)
