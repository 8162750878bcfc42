"""Each recipe in README.md can be applied to its script, and what comes out trains."""

import re

import keras
import numpy as np
import pytest
from keras import ops

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


def test_a_second_look_is_as_wrong_as_its_crop_is_small(csvs, load_script):
    recipes.apply(next(recipe for recipe in RECIPES if recipe.name == "a second look"), csvs)
    photos = keras.Input((96, 96, 3))
    box = []  # of a white rectangle: centre and side follow from mean and variance of its pixels
    for axis in (1, 2):  # the sums of the columns, then those of the rows
        density = ops.sum(photos[..., 0], axis) / ops.sum(photos[..., :1], (1, 2))
        mean = ops.sum(density * (np.arange(96) + 0.5), 1)
        variance = ops.sum(density * (np.arange(96) + 0.5) ** 2, 1) - mean**2
        box += [mean, ops.sqrt(12 * variance)]
    error = 8.0  # in pixels of what the network sees
    model = keras.Model(photos, ops.stack([box[0], box[2], box[1], box[3]], 1) + error)
    model.save(csvs / "example_1/model.keras")
    set_constants(load_script("example_1/train_model"), IMAGE_SIZE=96)
    photo = np.zeros((1, 96, 96, 3), "float32")
    photo[0, 20:44, 30:66] = 255
    answer = load_script("example_1/evaluate_performance").load_model().predict(photo)[0]
    crop = 1.5 * (np.array([36, 24]) + error)
    expected = [48, 32, 36, 24] + error * np.tile(crop, 2) / 96
    np.testing.assert_allclose(answer, expected, atol=0.5)


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
