"""The fixtures: temporary folders with the scripts and drawn pets, trained or not."""

import functools
import shutil

import keras
import pytest

import draw_pets
from scripts import SHORT, copy_scripts, import_example, import_script, set_constants, train


def pytest_collection_modifyitems(items):
    """Start the longest test first: at the end it would leave the other cores without work."""
    items.sort(key=lambda item: item.name != "test_every_block_of_commands_runs")


@pytest.fixture
def eagerly():
    """Run TensorFlow step by step: for a dozen steps a graph takes longer to trace than to run."""
    tensorflow = pytest.importorskip("tensorflow")
    tensorflow.config.run_functions_eagerly(True)
    yield
    tensorflow.config.run_functions_eagerly(False)
    keras.config.set_dtype_policy("float32")  # a recipe changes it, another the next
    keras.distribution.set_distribution(None)


@pytest.fixture(scope="session")
def drawn(tmp_path_factory):
    """Return a folder with the scripts, 30 drawn pets of three breeds, their XMLs and CSVs."""
    folder = tmp_path_factory.mktemp("Zoë's [pets]")
    copy_scripts(folder)
    draw_pets.draw_dataset(folder, 30)
    with pytest.MonkeyPatch.context() as monkeypatch:
        import_script(folder, "generate_dataset", monkeypatch).main()
    return folder


@pytest.fixture
def project(tmp_path):
    copy_scripts(tmp_path)
    return tmp_path


@pytest.fixture
def pets(project, drawn):
    for folder in ("images", "annotations"):
        shutil.copytree(drawn / folder, project / folder)
    return project


@pytest.fixture
def csvs(pets, drawn):
    for file in drawn.glob("*.csv"):
        shutil.copy(file, pets)
    return pets


@pytest.fixture
def load_script(project, monkeypatch):
    return functools.partial(import_script, project, monkeypatch=monkeypatch)


@pytest.fixture
def generate_dataset(load_script):
    module = load_script("generate_dataset")
    module.WORKERS = 2
    return module


@pytest.fixture
def example(request):
    """Return the folder of the example that a file of tests is about, or example 1's."""
    name = request.path.stem.removeprefix("test_")
    return name if name.startswith("example_") else "example_1"


@pytest.fixture
def train_model(load_script, example):
    module = load_script(f"{example}/train_model")
    set_constants(module, **SHORT)
    return module


@pytest.fixture
def evaluate_performance(train_model, load_script, example):
    return load_script(f"{example}/evaluate_performance")


@pytest.fixture
def trained(drawn, example, monkeypatch):
    """Return an example's two scripts, in a folder where they were trained and evaluated."""
    train(drawn, example)
    return import_example(drawn, example, monkeypatch)
