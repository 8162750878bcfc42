"""Each recipe in README.md can be applied to its script, and what comes out trains."""

import shutil

import pytest

import recipes
from conftest import REPOSITORY, SHORT, create_short_backbone, set_constants

RECIPES = recipes.read_recipes()


@pytest.fixture(autouse=True)
def eagerly():
    """Run TensorFlow step by step: for two steps a graph takes longer to trace than to run."""
    tensorflow = pytest.importorskip("tensorflow")
    tensorflow.config.run_functions_eagerly(True)
    yield
    tensorflow.config.run_functions_eagerly(False)


def test_there_are_recipes():
    assert len(RECIPES) == (REPOSITORY / "README.md").read_text().count("```diff")


@pytest.mark.parametrize("recipe", RECIPES, ids=[recipe.name for recipe in RECIPES])
def test_a_recipe_trains(csvs, load_script, recipe):
    folder = recipe.script.partition("/")[0]
    recipes.apply(recipe, csvs)
    train_model = load_script(f"{folder}/train_model")
    set_constants(train_model, **{**SHORT, "EPOCHS": 1, "BATCH_SIZE": 16})
    if hasattr(train_model, "MobileNetV2"):
        train_model.MobileNetV2 = create_short_backbone
    train_model.main()
    load_script(f"{folder}/evaluate_performance").main()
    assert (csvs / folder / "predictions.png").exists()


def test_a_recipe_that_does_not_fit_is_noticed(tmp_path):
    (tmp_path / "example_1").mkdir()
    shutil.copy(REPOSITORY / "example_1" / "train_model.py", tmp_path / "example_1")
    edits = [("no such line\n", "")]
    with pytest.raises(ValueError, match="no such line"):
        recipes.apply(recipes.Recipe("", "example_1/train_model.py", edits), tmp_path)
