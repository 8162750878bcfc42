"""Each recipe in README.md can be applied to its script, and what comes out trains."""

import re

import numpy as np
import pytest

import recipes
import results
from conftest import REPOSITORY, SHORT, create_short_backbone, create_small_model, set_constants

RECIPES = recipes.read_recipes()
CONSTANTS = {**SHORT, "EPOCHS": 1, "BATCH_SIZE": 16, "CLASSES": 2}


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
    own = {new.partition(" = ")[0] for _, _, new in recipe.edits}  # what the recipe sets stays
    set_constants(train_model, **{name: CONSTANTS[name] for name in CONSTANTS.keys() - own})
    if hasattr(train_model, "MobileNetV2"):
        train_model.MobileNetV2 = create_short_backbone
    train_model.main()
    evaluate_performance = load_script(f"{folder}/evaluate_performance")
    ious = evaluate_performance.evaluate(evaluate_performance.load_model(), "validation.csv")[2]
    assert len(ious) == 6 and np.isfinite(ious).all()


@pytest.mark.parametrize("name", ["flips at test time", "a second look"])
def test_the_boxes_of_a_mirror_image_and_of_a_crop(csvs, load_script, name):
    recipes.apply(next(recipe for recipe in RECIPES if recipe.name == name), csvs)
    model = create_small_model()  # centre: 96 times the means of red and green, and an offset
    offset, size = np.array([26, 10]), np.array([30, 50])
    model.layers[-1].set_weights([np.eye(3, 4) * 96, np.array([*offset, *size])])
    model.save(csvs / "example_1/model.keras")
    set_constants(load_script("example_1/train_model"), IMAGE_SIZE=96)
    squares = ((np.arange(96) + 0.5) / 96) ** 2 * 255  # of x in red, of y in green
    photo = np.stack([*np.meshgrid(squares, squares), np.zeros((96, 96))], axis=2)
    box = load_script("example_1/evaluate_performance").load_model().predict(photo[None])[0]
    centre, crop = 32 + offset, 1.5 * size  # 32: the mean square of the numbers to 96, over 96
    if name == "flips at test time":  # the mirror image has the same means, so the same answer
        np.testing.assert_allclose(box, [96 / 2, centre[1], *size], atol=0.05)
        return
    second = (centre**2 + crop**2 / 12) / 96 + offset  # likewise, of those in the crop
    np.testing.assert_allclose(box[:2], centre - crop / 2 + second * crop / 96, atol=0.05)
    np.testing.assert_allclose(box[2:], size * crop / 96, atol=1e-3)


def test_tables_have_the_means_of_three_seeds():
    others = {"other": "0", "minutes": "2", "above_half": "0.9"}
    ious = [("SGD", 0.5), ("SGD", 0.6), ("SGD", 0.7), ("MSE", 0.5), ("MSE", 0.6)]
    rows = [{"run": run, "iou": str(iou), **others} for run, iou in ious]
    head = "\n| recipe | IoU | minutes |\n| --- | --- | --- |\n"
    empty, filled = "| SGD | 0.1 | |\n| MSE | | |", "| SGD | 0.600 | 2.0 |\n| MSE | | |"
    assert results.fill_tables(head + empty, rows) == head + filled


def test_the_tables_of_the_readme_are_those_of_the_results():
    text = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    assert results.fill_tables(text, results.read_results()) == text
