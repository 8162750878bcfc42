"""What the tests share: a temporary copy of the scripts, with drawn pets beside them."""

import importlib
import re
import shutil
import sys
from pathlib import Path

import keras
import pytest
from keras import layers

import draw_pets

REPOSITORY = Path(__file__).resolve().parent.parent


def to_numpy(tensor):
    """Return a tensor of any backend as a NumPy array."""
    return keras.ops.convert_to_numpy(tensor)


def message_of(function):
    """Return the one-line message with which a script stops."""
    with pytest.raises(SystemExit) as stop:
        function()
    assert isinstance(stop.value.code, str), "the exit code would be 0"
    assert len(stop.value.code.splitlines()) == 1
    return stop.value.code


def create_small_model(image_size=96):
    """Return a model that trains in no time: four numbers from the mean colour of the photo."""
    photos = keras.Input((image_size, image_size, 3))
    pooled = layers.GlobalAveragePooling2D()(layers.Rescaling(1 / 255)(photos))
    return keras.Model(photos, layers.Dense(4)(pooled))


def create_short_backbone(input_tensor, **options):
    """Return what stands in for MobileNetV2: a block with a residual sum for each stride."""
    features = input_tensor
    for filters in (16, 24, 32, 64, 96):
        features = layers.ZeroPadding2D(((0, 1), (0, 1)))(features)
        features = layers.Conv2D(filters, 3, strides=2, use_bias=False)(features)
        features = layers.ReLU(6.0)(layers.BatchNormalization()(features))
        residual = layers.DepthwiseConv2D(3, padding="same", use_bias=False)(features)
        residual = layers.ReLU(6.0)(layers.BatchNormalization()(residual))
        residual = layers.Conv2D(filters, 1, use_bias=False)(residual)
        features = layers.Add()([features, layers.BatchNormalization()(residual)])
    return keras.Model(keras.utils.get_source_inputs(input_tensor)[0], features)


def pytest_collection_modifyitems(items):
    """Start the longest test first: at the end it would leave the other cores without work."""
    items.sort(key=lambda item: item.name != "test_every_block_of_commands_runs")


@pytest.fixture
def project(tmp_path):
    """Return a folder with a copy of the scripts and no photos."""
    shutil.copy(REPOSITORY / "generate_dataset.py", tmp_path)
    for example in REPOSITORY.glob("example_*"):
        (tmp_path / example.name).mkdir()
        for script in example.glob("*.py"):
            shutil.copy(script, tmp_path / example.name)
    return tmp_path


@pytest.fixture
def short_backbone(project, monkeypatch):
    """Let the copied scripts import few blocks instead of MobileNetV2: TensorFlow traces them soon.

    Use it before train_model: @pytest.mark.usefixtures("short_backbone").
    """
    for script in project.glob("example_*/train_model.py"):
        text, count = re.subn(
            "from keras.applications import MobileNetV2 as Backbone",
            "from conftest import create_short_backbone as Backbone",
            script.read_text(),
        )
        assert count == 1
        script.write_text(text)
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY / "tests"))  # for processes


@pytest.fixture
def pets(project):
    """Return `project` with 30 drawn pets of three breeds and their XMLs."""
    draw_pets.draw_dataset(project, 30)
    return project


@pytest.fixture
def load_script(project, monkeypatch):
    """Return a function that imports a script of `project` anew, by its path without `.py`."""

    def load(script):
        folder, _, name = script.rpartition("/")
        monkeypatch.syspath_prepend(project / folder)
        monkeypatch.delitem(sys.modules, name, raising=False)
        return importlib.import_module(name)

    return load


@pytest.fixture
def generate_dataset(load_script):
    """Return the imported copy of generate_dataset.py, with two workers."""
    module = load_script("generate_dataset")
    module.WORKERS = 2
    return module


@pytest.fixture
def example():
    """Return the folder of the example that a file of tests is about."""
    return "example_1"


@pytest.fixture
def train_model(load_script, example):
    """Return the imported copy of an example's train_model.py, set for a short run."""
    module = load_script(f"{example}/train_model")
    module.WEIGHTS, module.ALPHA, module.FREEZE = None, 0.35, "none"
    module.EPOCHS, module.BATCH_SIZE = 2, 8
    return module


@pytest.fixture
def evaluate_performance(train_model, load_script, example):
    """Return the imported copy of evaluate_performance.py, beside `train_model`."""
    return load_script(f"{example}/evaluate_performance")


@pytest.fixture
def csvs(pets, generate_dataset):
    """Return `project` with drawn pets and their CSVs."""
    generate_dataset.main()
    return pets
