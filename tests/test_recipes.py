"""Each recipe of the pages can be applied and taken back, trains, and changes what it says."""

import re
import shutil
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from PIL import Image

import recipes
import results
from scripts import SHORT, create_short_backbone, edit, import_script

BRIEF = {"EPOCHS": 1, "WINDOWS_PER_EPOCH": 16}
CONSTANTS = {**SHORT, "BATCH_SIZE": 16, "FROZEN_LAYERS": 12, "CLASSES": 2}
for constant in ("WEIGHTS", "CELLS", "BOX_WEIGHT"):  # stay as they are
    del CONSTANTS[constant]
RUNS = [run for run in recipes.read_runs() if run.name != "default"]
DEFAULTS = {}  # what `describe` returns without a recipe, by example
OF_2018 = {"optimizer": ("Adam", 0.001), "callback": ("ReduceLROnPlateau", 10), "looks": 1}
OF_2018 |= {"augment": False, "batch norm": {(True, 0.8)}, "first layer trains": True}
# Other backbones, without weights, which may not be at hand, so that nothing is frozen.
OTHER = {"batch norm": {(True, 0.9)}, "first layer trains": True}
OTHER |= {"top": "Conv2D BatchNormalization Activation Conv2D"}
# What of it a recipe changes. The losses are worked out by hand, for the boxes of `describe`.
CHANGES = {
    "1/adam": {"optimizer": ("Adam", 0.001)},
    "1/sgd": {"optimizer": ("SGD", 0.01)},
    "1/plateau": {"callback": ("ReduceLROnPlateau", 3)},
    "1/mse": {"losses": [125.0]},  # (100 + 400) / 4
    "1/ciou": {"losses": [0.8657]},  # 1 - (0.5 - 100 / 2000 - 0.0032) + 30 / 96
    "1/batch_norm_trained": {"batch norm": {(True, 0.999)}},
    "1/last_relu": {"top": "Add BatchNormalization ReLU Conv2D"},
    "1/inverted_residual": {"convolutions": 6 + 2, "top": "DepthwiseConv2D Conv2D Add Conv2D"},
    "1/flips": {"box": [(10 + 90) / 2, 48, 8, 8]},  # the right edge is the mirrored left one
    "1/generator_copies": {"augment": False, "copies": True},
    "1/mixed_precision": {"precision": "float16"},
    "1/tensorboard": {"callback": ("TensorBoard", None)},
    "1/mobilenet_v3_large": {**OTHER, "block": "expanded_conv_14_add", "convolutions": 48},
    "1/efficientnet_v2_b0": {**OTHER, "block": "block6h_add", "convolutions": 76},
    "1/several_gpus": {"distributed": True},
    "1/as_in_2018": {**OF_2018, "losses": [125.0], "top": "Add BatchNormalization ReLU Conv2D"},
    "2/cross_entropy": {"losses": [1.0356] * 2},  # box_loss 0.8125 - log(0.8)
    "2/rare_positives": {"losses": [0.8205, 0.8134]},  # 0.8125 - (0.9, 0.1) * 0.04 log(0.8)
    "2/as_in_2018": {
        **OF_2018,
        "losses": [2.6567] * 2,  # (log(101) + log(401)) / 4 - (0.9 + 0.1) / 2 * 0.04 log(0.8)
        "top": "ReLU GlobalAveragePooling2D Conv2D Dense",
    },
    "3/as_in_2018": {
        **OF_2018,
        "callback": ("ReduceLROnPlateau", 5),
        "convolutions": 5,
        "top": "BatchNormalization ReLU GlobalAveragePooling2D Dense",
    },
}


def look_at_square(it):
    """Return the box, in pixels, by a model whose centre is the first column that is white."""

    def predict(windows):
        return np.array([[window[0, :, 0].argmax(), 48, 8, 8] for window in windows])

    photo = Image.new("RGB", (96, 96))
    photo.paste("white", (10, 0, 90, 96))
    model = SimpleNamespace(predict_on_batch=predict)
    box = it.evaluate_performance.look_once(model, photo, it.train_model.WHOLE_PHOTO)
    return np.round(box * 96, 2).tolist()


def describe(it, example):
    """Return what recipes change, of an example that was trained for a moment."""
    optimizer = getattr(it.model.optimizer, "inner_optimizer", it.model.optimizer)
    rate = getattr(optimizer._learning_rate, "warmup_target", optimizer._learning_rate)
    callback = it.callbacks[1]
    kinds = [type(layer).__name__ for layer in it.model.layers]
    norms = [layer for layer in it.model.layers if hasattr(layer, "momentum")]
    true, predicted = np.float32([[50, 50, 20, 20]]), np.float32([[60, 50, 40, 20]])  # IoU 0.5
    pairs = [(true, predicted)] if example == "example_1" else []
    for row in np.float32([[[0.8, 0.2]], [[0.2, 0.8]]]) if example == "example_2" else ():
        outputs = {"coords": predicted, "classes": row}
        pairs.append(({"coords": true, "classes": row.round()}, outputs))
    losses = [float(it.model.compute_loss(y=y, y_pred=y_pred)) for y, y_pred in pairs]
    return {
        "optimizer": (type(optimizer).__name__, round(float(rate), 5)),
        "callback": (type(callback).__name__, getattr(callback, "patience", None)),
        "losses": np.round(losses, 4).tolist(),
        "batch norm": {(layer.trainable, layer.momentum) for layer in norms},
        "first layer trains": it.model.layers[kinds.index("Conv2D")].trainable,
        "block": [layer.name for layer in it.model.layers if layer.name.endswith("_add")][-1],
        "convolutions": kinds.count("Conv2D"),
        "top": " ".join(kinds[-5:-1]),
        "precision": it.model.layers[-2].compute_dtype,
        "distributed": keras.distribution.distribution() is not None,
        "augment": it.train_model.AUGMENT,
        "copies": len(it.train_model.read_csv("train.csv")[0]) > 24,
        "looks": it.evaluate_performance.LOOKS,
        "box": look_at_square(it) if example == "example_1" else None,
    }


def train(run, folder):
    """Apply a recipe, train for a moment and evaluate; return the scripts, model and figures."""
    recipes.apply(run, folder)
    file = folder / run.example / "train_model.py"
    own = [name for name in CONSTANTS if f"{name} = " in run.name]  # what the recipe sets stays
    edit(file, **{name: value for name, value in CONSTANTS.items() if name not in own} | BRIEF)
    rows = (folder / "validation.csv").read_text("utf-8").splitlines(keepends=True)
    (folder / "validation.csv").write_text("".join(rows[:3]), "utf-8")  # two photos are enough
    fit = keras.Model.fit

    def keep_and_fit(model, *arguments, **options):
        it.model, it.callbacks = model, options["callbacks"]
        return fit(model, *arguments, **options)

    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(keras.Model, "fit", keep_and_fit)
        if "generator" in run.name:
            import_script(folder, "generate_dataset", monkeypatch).main()
        train_model = import_script(folder, f"{run.example}/train_model", monkeypatch)
        it = SimpleNamespace(train_model=train_model)
        if hasattr(train_model, "MobileNetV2"):
            train_model.MobileNetV2 = create_short_backbone
        else:
            train_model.WEIGHTS = None  # nothing to download
        train_model.main()
        script = f"{run.example}/evaluate_performance"
        it.evaluate_performance = import_script(folder, script, monkeypatch)
        it.figures = results.evaluate(it.evaluate_performance, train_model)
    return it


def key_of(run):
    return f"{run.example[-1]}/{run.name.removeprefix('recipes/').removesuffix('.diff')}"


@pytest.mark.usefixtures("eagerly")
@pytest.mark.parametrize("run", RUNS, ids=key_of)
def test_a_recipe_trains_and_changes_what_it_says(csvs, tmp_path_factory, run):
    scripts = {file: file.read_bytes() for file in csvs.rglob("*.py")}
    text = "".join(file.read_text() for file in csvs.glob(f"{run.example}/*.py"))
    assert not re.search(rf"^{re.escape(run.name)}( |$)", text, re.MULTILINE), "it is the default"
    if run.name.endswith(".diff"):
        recipes.apply(run, csvs)
        recipes.apply(run, csvs, "--reverse")
        assert scripts == {file: file.read_bytes() for file in csvs.rglob("*.py")}
        if run.example not in DEFAULTS:
            copy = shutil.copytree(csvs, tmp_path_factory.mktemp("default") / "copy")
            it = train(recipes.Run(run.example, "default"), copy)
            DEFAULTS[run.example] = describe(it, run.example)
    it = train(run, csvs)
    assert np.isfinite([*it.figures.values()]).all()
    if run.name.endswith(".diff"):
        default, facts = DEFAULTS[run.example], describe(it, run.example)
        changes = {name: fact for name, fact in facts.items() if fact != default[name]}
        assert changes == CHANGES[key_of(run)]


def test_an_edited_constant_is_in_no_recipes_way(csvs):
    edits_it_too = ("recipes/as_in_2018.diff", "recipes/generator_copies.diff")
    diffs = [run for run in RUNS if ".diff" in run.name and run.name not in edits_it_too]
    for run in diffs:
        edit(csvs / run.example / "train_model.py", EPOCHS=3, KEPT_SIZE=896, SEED=1)
        recipes.apply(run, csvs)
        recipes.apply(run, csvs, "--reverse")
    assert len(diffs) > 15


def test_the_tables_name_every_diff():
    files = recipes.REPOSITORY.glob("example_*/recipes/*.diff")
    named = {f"{run.example}/{run.name}" for run in RUNS if ".diff" in run.name}
    assert named == {file.relative_to(recipes.REPOSITORY).as_posix() for file in files}


def test_a_table_has_mean_and_deviation_of_three_seeds_and_no_other_figure():
    ious = [("sgd.diff", 0.5), ("sgd.diff", 0.6), ("sgd.diff", 0.7), ("mse.diff", 0.5)]
    row = {"example": "1", "minutes": "2"}
    rows = [{"run": f"recipes/{run}", "iou": str(iou), **row} for run, iou in ious]
    head = "| recipe | IoU | minutes |\n| --- | --- | --- |\n| [SGD](recipes/sgd.diff) | "
    table = head + "0.1 | |\n| [MSE](recipes/mse.diff) | 0.5 | 2.0 |\n| `no` | 1 | 2 |"
    filled = head + "0.600 ± 0.100 | 2.0 |\n| [MSE](recipes/mse.diff) |  |  |\n| `no` | 1 | 2 |"
    assert results.fill_tables(table, recipes.PAGES[1], rows) == filled


@pytest.mark.parametrize("page", recipes.PAGES, ids=lambda page: page.parent.name)
def test_the_tables_of_a_page_are_those_of_the_results(page):
    text = page.read_text(encoding="utf-8")
    assert results.fill_tables(text, page, results.read_results()) == text
