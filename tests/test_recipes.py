"""Each recipe in README.md can be applied to its script, and what comes out trains."""

import shutil

import pytest

import recipes
from conftest import REPOSITORY

RECIPES = recipes.read_recipes()


def test_there_are_recipes():
    assert len(RECIPES) == (REPOSITORY / "README.md").read_text().count("```diff")


@pytest.mark.parametrize("recipe", RECIPES, ids=[recipe.name for recipe in RECIPES])
def test_a_recipe_trains(csvs, load_script, recipe):
    folder = recipe.script.partition("/")[0]
    for script in (REPOSITORY / folder).glob("*.py"):
        shutil.copy(script, csvs / folder)
    recipes.apply(recipe, csvs)
    train_model = load_script(f"{folder}/train_model")
    train_model.WEIGHTS, train_model.ALPHA, train_model.IMAGE_SIZE = None, 0.35, 96
    train_model.EPOCHS, train_model.BATCH_SIZE = 1, 8
    if folder == "example_3":
        train_model.CELLS = 12
    train_model.main()
    load_script(f"{folder}/evaluate_performance").main()
    assert (csvs / folder / "predictions.png").exists()


def test_a_recipe_that_does_not_fit_is_noticed(tmp_path):
    (tmp_path / "example_1").mkdir()
    shutil.copy(REPOSITORY / "example_1" / "train_model.py", tmp_path / "example_1")
    edits = [("no such line\n", "")]
    with pytest.raises(ValueError, match="no such line"):
        recipes.apply(recipes.Recipe("", "example_1/train_model.py", edits), tmp_path)
