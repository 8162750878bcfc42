"""Each recipe of the pages can be applied and taken back, trains, and changes what it says."""

import re
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from PIL import Image

import recipes
import results
from conftest import SHORT, create_short_backbone, edit

DIFFS = [*recipes.REPOSITORY.glob("example_*/recipes/*.diff")]
CONSTANTS = {**SHORT, "EPOCHS": 1, "BATCH_SIZE": 16, "FROZEN_LAYERS": 12, "CLASSES": 2}
del CONSTANTS["CELLS"], CONSTANTS["BOX_WEIGHT"]  # as the scripts have them
TRUE, PREDICTED = np.float32([[50, 50, 20, 20]]), np.float32([[60, 50, 40, 20]])  # IoU 0.5


def optimizer(it):
    """Return the optimizer, its highest learning rate, and the patience of what lowers it."""
    rate = it.model.optimizer._learning_rate
    patience = [callback.patience for callback in it.callbacks if hasattr(callback, "patience")]
    return [it.model.optimizer.name, float(getattr(rate, "warmup_target", rate)), *patience]


def loss(it, true=TRUE, predicted=PREDICTED):
    return [float(it.model.compute_loss(y=true, y_pred=predicted))]


def loss_of_classes(it):
    """Return the loss with probability 0.8 of the right class: of the first, of the second."""
    rows = np.float32([[[0.8, 0.2]], [[0.2, 0.8]]])
    outputs = [{"coords": PREDICTED, "classes": row} for row in rows]
    return [
        loss(it, {"coords": TRUE, "classes": out["classes"].round()}, out)[0] for out in outputs
    ]


def kinds(it, first, last=None):
    return [type(layer).__name__ for layer in it.model.layers[first:last]]


def layer_name(it):
    return [it.model.layers[-6].name]


def batch_norms(it):
    norms = [layer for layer in it.model.layers if hasattr(layer, "momentum")]
    return [*{layer.trainable for layer in norms}, *{layer.momentum for layer in norms}]


def box_of_square(it):
    """Return the box that a model finds which is 6 pixels off to the right and down."""

    def predict(windows):
        columns = [np.flatnonzero(window.max(axis=(0, 2))) for window in windows]
        return np.array([[x.mean() + 0.5 + 6, 40 + 6, len(x), 20] for x in columns])

    photo = Image.new("RGB", (96, 96))
    photo.paste("white", (10, 30, 30, 50))
    return [*it.evaluate_performance.look(SimpleNamespace(predict_on_batch=predict), photo)[0] * 96]


def shares(it):
    """Return whether two processes take half of the boxes each."""
    it.train_model.AUGMENT, processes = False, (0, 1)
    dataset = it.train_model.PhotoDataset(*it.train_model.read_csv("train.csv"), training=True)
    _, whole = dataset[0]
    it.train_model.PROCESSES = len(processes)
    return [
        np.array_equal(dataset[0][1], whole[it.train_model.PROCESS :: len(processes)])
        for it.train_model.PROCESS in processes
    ]


CONVOLUTION = ["Conv2D", "BatchNormalization", "ReLU"]
CHECKS = {  # the losses are worked out by hand: L1 30 / 96, squared errors 100 and 400
    "example_1/recipes/adam.diff": (optimizer, ["adam", 1e-3]),
    "example_1/recipes/sgd.diff": (optimizer, ["SGD", 1e-2]),
    "example_1/recipes/plateau.diff": (optimizer, ["adamw", 1e-3, 3]),
    "example_1/recipes/mse.diff": (loss, [(100 + 400) / 4]),
    "example_1/recipes/mae.diff": (loss, [(10 + 20) / 4]),
    "example_1/recipes/smooth_l1.diff": (loss, [(9.5 + 19.5) / 4]),
    "example_1/recipes/ciou.diff": (loss, [1 - (0.5 - 100 / 2000 - 0.003248) + 30 / 96]),
    "example_1/recipes/log_mse.diff": (loss, [np.log([101, 401]).sum() / 4]),
    "example_1/recipes/batch_norm_trained.diff": (batch_norms, [True, 0.999]),
    "example_1/recipes/last_relu.diff": (lambda it: kinds(it, -3), ["ReLU", "Conv2D", "Reshape"]),
    "example_1/recipes/more_layers.diff": (lambda it: kinds(it, -11, -2), 3 * CONVOLUTION),
    "example_1/recipes/inverted_residual.diff": (
        lambda it: kinds(it, -6, -2),
        ["Conv2D", "DepthwiseConv2D", "Conv2D", "Add"],
    ),
    "example_1/recipes/flips.diff": (box_of_square, [20, 46, 20, 20]),
    "example_1/recipes/generator_copies.diff": (
        lambda it: [it.train_model.AUGMENT, len(it.train_model.read_csv("train.csv")[0]) > 10 * 24],
        [False, True],
    ),
    "example_1/recipes/mixed_precision.diff": (
        lambda it: [layer.compute_dtype for layer in it.model.layers[-2:]],
        ["float16", "float32"],
    ),
    "example_1/recipes/tensorboard.diff": (
        lambda it: [len([*it.train_model.FOLDER.glob("tensorboard/train/events*")])],
        [1],
    ),
    "example_1/recipes/mobilenet_v3_large.diff": (layer_name, ["expanded_conv_14_add"]),
    "example_1/recipes/efficientnet_v2_b0.diff": (layer_name, ["block6h_add"]),
    "example_1/recipes/several_gpus.diff": (shares, [True, True]),
    "example_1/recipes/as_in_2018.diff": (
        lambda it: [*optimizer(it), *loss(it), *batch_norms(it), *kinds(it, -3)],
        ["adam", 1e-3, 10, 125, True, 0.8, "ReLU", "Conv2D", "Reshape"],
    ),
    "example_2/recipes/cross_entropy.diff": (loss_of_classes, 2 * [0.8125 - np.log(0.8)]),
    "example_2/recipes/rare_positives.diff": (
        loss_of_classes,
        [0.8125 - 0.04 * weight * np.log(0.8) for weight in (0.9, 0.1)],
    ),
    "example_2/recipes/as_in_2018.diff": (
        lambda it: [*optimizer(it), *loss_of_classes(it), *batch_norms(it)],
        ["adam", 1e-3, 10, *2 * [np.log([101, 401]).sum() / 4 - 0.02 * np.log(0.8)], True, 0.8],
    ),
    "example_3/recipes/as_in_2018.diff": (
        lambda it: [*optimizer(it), *batch_norms(it), *it.model.output_shape[1:]],
        ["adam", 1e-3, 5, True, 0.8, 8, 8],
    ),
}


def train(run, folder, load_script, monkeypatch):
    """Apply a recipe, train for a moment and evaluate; return what there is to check."""
    recipes.apply(run, folder)
    file = folder / run.example / "train_model.py"
    before = (recipes.REPOSITORY / run.example / "train_model.py").read_text()
    new = set(file.read_text().splitlines()) - set(before.splitlines())
    own = {line.partition(" = ")[0] for line in new} - {"EPOCHS", "WINDOWS_PER_EPOCH"}
    edit(file, **{name: CONSTANTS[name] for name in CONSTANTS.keys() - own - {"WEIGHTS"}})
    load_script("generate_dataset").main()
    it = SimpleNamespace(train_model=load_script(f"{run.example}/train_model"))
    if hasattr(it.train_model, "MobileNetV2"):
        it.train_model.MobileNetV2 = create_short_backbone
    else:
        it.train_model.WEIGHTS = None  # nothing to download
    fit = keras.Model.fit

    def fit_and_keep(model, *arguments, **options):
        it.model, it.callbacks = model, options["callbacks"]
        return fit(model, *arguments, **options)

    monkeypatch.setattr(keras.Model, "fit", fit_and_keep)
    it.train_model.main()
    it.evaluate_performance = load_script(f"{run.example}/evaluate_performance")
    it.figures = results.evaluate(it.evaluate_performance, it.train_model)
    return it


@pytest.mark.usefixtures("eagerly")
@pytest.mark.parametrize("run", recipes.read_recipes(), ids="{0.example}, {0!s}".format)
def test_a_recipe_trains_and_does_what_it_says(csvs, load_script, monkeypatch, run):
    it = train(run, csvs, load_script, monkeypatch)
    assert np.isfinite([*it.figures.values()]).all()
    if run.steps[0].endswith(".diff"):
        check, expected = CHECKS[f"{run.example}/{run}"]
        assert check(it) == pytest.approx(expected, abs=1e-4)


@pytest.mark.usefixtures("eagerly")
@pytest.mark.parametrize("example", ["example_1", "example_2", "example_3"])
def test_without_a_recipe_its_check_fails(csvs, load_script, monkeypatch, example):
    it = train(recipes.Run(example, ()), csvs, load_script, monkeypatch)
    for name, (check, expected) in CHECKS.items():
        if name.startswith(example):
            assert check(it) != pytest.approx(expected, abs=1e-4), name


@pytest.mark.parametrize("run", recipes.read_recipes(), ids="{0.example}, {0!s}".format)
def test_a_diff_is_taken_back_and_a_constant_is_one_line(project, run):
    before = {file: file.read_bytes() for file in project.rglob("*.py")}
    recipes.apply(run, project)
    edited = [file for file in before if file.read_bytes() != before[file]]
    if run.steps[0].endswith(".diff"):
        assert edited
        recipes.apply(run, project, "--reverse")
        assert before == {file: file.read_bytes() for file in project.rglob("*.py")}
    else:
        (file,) = edited
        lines = set(file.read_bytes().splitlines()) - set(before[file].splitlines())
        assert lines == {run.steps[0].encode()}


def test_the_pages_name_every_diff_and_show_none_but_these():
    named = {f"{run.example}/{run}" for run in recipes.read_recipes() if "recipes/" in str(run)}
    assert (
        named
        == CHECKS.keys()
        == {file.relative_to(recipes.REPOSITORY).as_posix() for file in DIFFS}
    )
    texts = [file.read_text() for file in DIFFS]
    for page in recipes.PAGES[1:]:
        for block in re.findall(r"```diff\n(.*?)```", page.read_text(), re.DOTALL):
            assert any(block in text for text in texts), block


def test_a_table_has_mean_and_deviation_of_three_seeds_and_no_other_figure():
    rows = [("recipes/sgd.diff", 0.5), ("recipes/sgd.diff", 0.6), ("recipes/sgd.diff", 0.7)]
    rows += [("ALPHA = 0.35", 0.5), ("ALPHA = 0.35", 0.6)]
    rows = [{"run": run, "example": "1", "iou": str(iou), "minutes": "2"} for run, iou in rows]
    head = "| recipe | IoU | minutes |\n| --- | --- | --- |\n| [SGD](recipes/sgd.diff) | "
    table = head + "0.1 | |\n| `ALPHA = 0.35` | 0.5 | 2.0 |\n| MSE | 1 | 2 |"
    filled = head + "0.600 ± 0.100 | 2.0 |\n| `ALPHA = 0.35` |  |  |\n| MSE | 1 | 2 |"
    assert results.fill_tables(table, "example_1", rows) == filled


@pytest.mark.parametrize("page", recipes.PAGES, ids=lambda page: page.parent.name)
def test_the_tables_of_a_page_are_those_of_the_results(page):
    text = page.read_text(encoding="utf-8")
    assert results.fill_tables(text, recipes.example_of(page), results.read_results()) == text
