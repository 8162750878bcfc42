"""The fixtures: temporary folders with the scripts and drawn pets, trained or not."""

import functools
import shutil

import pytest

import draw_pets
from scripts import copy_scripts, import_example, import_script, train


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
    return load_script("generate_dataset")


@pytest.fixture
def example(request):
    """Return the folder of the example that a file of tests is about, or example 1's."""
    name = request.path.stem.removeprefix("test_")
    return name if name.startswith("example_") else "example_1"


@pytest.fixture
def scripts(project, example, monkeypatch):
    return import_example(project, example, monkeypatch)


@pytest.fixture
def train_model(scripts):
    return scripts[0]


@pytest.fixture
def evaluate_performance(scripts):
    return scripts[1]


@pytest.fixture
def trained(drawn, example, monkeypatch):
    """Return an example's train_model.py, where it was trained and evaluated, and the run."""
    run = train(drawn, example)
    return import_example(drawn, example, monkeypatch)[0], run
