"""Each recipe in README.md can be applied to its script, and what comes out trains."""

import re

import pytest

import recipes
import results
from conftest import REPOSITORY, SHORT, create_short_backbone, set_constants

RECIPES = recipes.read_recipes()


def test_every_recipe_is_read():
    text = (REPOSITORY / "README.md").read_text()
    rows = re.findall(r"^\|.* \| `.*` \| `", text, re.MULTILINE)
    assert len(RECIPES) == text.count("```diff") + len(rows) + 3  # the whole of 2018's


@pytest.mark.usefixtures("eagerly")
@pytest.mark.parametrize("recipe", RECIPES, ids=[recipe.name for recipe in RECIPES])
def test_a_recipe_trains(csvs, load_script, recipe):
    folder = recipes.example_of(recipe)
    recipes.apply(recipe, csvs)
    if any(script == "generate_dataset.py" for script, _, _ in recipe.edits):
        load_script("generate_dataset").main()
    train_model = load_script(f"{folder}/train_model")
    set_constants(train_model, **{**SHORT, "EPOCHS": 1, "BATCH_SIZE": 16, "CLASSES": 2})
    if hasattr(train_model, "MobileNetV2"):
        train_model.MobileNetV2 = create_short_backbone
    train_model.main()
    load_script(f"{folder}/evaluate_performance").main()
    assert (csvs / folder / "predictions.png").exists()


def test_tables_have_the_means_of_the_seeds():
    same = {"run": "SGD", "other": "0", "minutes": "2", "above_half": "0.9"}
    rows = [{**same, "seed": "0", "iou": "0.5"}, {**same, "seed": "1", "iou": "0.7"}]
    head = "\n| recipe | `SEED` | IoU | minutes |\n| --- | --- | --- | --- |\n"
    empty = "| SGD | | 0.1 | |\n| MSE | | | |"
    filled = "| SGD | 0, 1 | 0.600 | 2.0 |\n| MSE | | | |"
    assert results.fill_tables(head + empty, rows) == head + filled


def test_the_tables_of_the_readme_are_those_of_the_results():
    text = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    assert results.fill_tables(text, results.read_results()) == text
