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

CONSTANTS = {name: SHORT[name] for name in SHORT if name not in ("CELLS", "BOX_WEIGHT")}
CONSTANTS |= {"BATCH_SIZE": 16, "FROZEN_LAYERS": 12}
CONSTANTS |= {"EPOCHS": 1, "WINDOWS_PER_EPOCH": 16}
RUNS = [run for run in recipes.read_runs() if run.name != "default"]
DIFFS = [run for run in RUNS if run.name.endswith(".diff")]
DEFAULTS = {}  # what `describe` returns without a recipe, by example
OF_2018 = {"optimizer": ("Adam", 0.001), "callback": ("ReduceLROnPlateau", 10), "looks": 1}
OF_2018 |= {"whole photos": True, "batch norm": {(True, 0.99)}, "first layer trains": True}
LAST_RELU = {"top": "BatchNormalization Conv2D ReLU Rescaling"}
# What of it a recipe changes. The losses are worked out by hand, for the boxes of `describe`.
CHANGES = {
    "1/adam": {"optimizer": ("Adam", 0.001)},
    "1/sgd": {"optimizer": ("SGD", 0.01)},
    "1/plateau": {"callback": ("ReduceLROnPlateau", 3)},
    "1/mse": {"losses": [115.2]},  # (9.6^2 + 19.2^2) / 4
    "1/ciou": {"losses": [0.8532]},  # 1 - (0.5 - 0.1^2 / 0.2 - 0.0032) + 0.3
    "1/random_weights": {"weights": None, "batch norm": {(True, 0.9)}, "first layer trains": True},
    "1/batch_norm_trained": {"batch norm": {(True, 0.99)}},
    "1/last_relu": LAST_RELU,
    "1/inverted_residual": {"convolutions": 6 + 2, "top": "Add Conv2D Conv2D Rescaling"},
    "1/flips": {"first box": [0.05, 0.1, 0.95, 0.9]},  # of (0.1, 0.1, 1, 0.9) and its mirror image
    "1/look_elsewhere": {"last box, small": [0.7, 0.7, 0.82, 0.8]},
    "1/whole_photos": {"whole photos": True},
    "1/generator_copies": {"whole photos": True, "copies": True},
    "1/from_disk": {"in memory": False},
    "1/tensorboard": {"callback": ("TensorBoard", None)},
    "1/as_in_2018": OF_2018 | LAST_RELU | {"losses": [115.2]},
    "2/cross_entropy": {"losses": [1.0231] * 2},  # box_loss 0.8 - log(0.8)
    "2/as_in_2018": {  # log((1 + 9.6^2)(1 + 19.2^2)) / 4 - 0.5 * 0.04 log(0.8)
        **OF_2018,
        "losses": [2.6162] * 2,
        "top": "Conv2D Dense GlobalAveragePooling2D Rescaling",
    },
    "3/as_in_2018": {
        **OF_2018,
        "callback": ("ReduceLROnPlateau", 5),
        "convolutions": 5,
        "top": "BatchNormalization Dense GlobalAveragePooling2D ReLU",
    },
}


def look_at_square(script, corners):
    """Return the boxes of the looks at a white square, by a model that makes mistakes.

    Its boxes are too wide, and it sees no object that has less than 2 % of the window.
    """

    def predict(windows):
        boxes = []
        for window in windows:
            y, x = np.nonzero(window[:, :, 0] > 128)
            is_seen = len(x) > 0.02 * 100 * 100
            box = (x.min(), y.min(), x.max() + 11, y.max() + 1) if is_seen else (40, 0, 60, 10)
            boxes.append(np.divide(box, 100))
        return np.stack(boxes)

    photo = Image.new("RGB", (100, 100))
    photo.paste("white", corners)
    model = SimpleNamespace(input_shape=(None, 100, 100, 3), predict_on_batch=predict)
    boxes, _ = script.look(model, photo)
    return np.round(boxes, 2).tolist()


def describe(it, example):
    """Return what recipes change, of an example that was trained for a moment."""
    optimizer = it.model.optimizer
    rate = getattr(optimizer._learning_rate, "warmup_target", optimizer._learning_rate)
    kinds = [type(layer).__name__ for layer in it.model.layers]
    norms = [layer for layer in it.model.layers if hasattr(layer, "momentum")]
    true, predicted = np.float32([[0.4, 0.4, 0.6, 0.6]]), np.float32([[0.4, 0.4, 0.8, 0.6]])
    pairs = [(true, predicted)] if example == "example_1" else []
    for row in np.float32([[[0.8, 0.2]], [[0.2, 0.8]]]) if example == "example_2" else ():
        outputs = {"coords": predicted, "classes": row}
        pairs.append(({"coords": true, "classes": row.round()}, outputs))
    losses = [float(it.model.compute_loss(y=y, y_pred=y_pred)) for y, y_pred in pairs]
    photos = [it.train_model.load_photo(row["path"], 192) for row in it.training.rows]
    whole = [it.train_model.cut_window(photo, np.array([0, 0, 1, 1]), 96) for photo in photos]
    whole = {photo.tobytes() for photo in whole}
    facts = {
        "optimizer": (type(optimizer).__name__, round(float(rate), 5)),
        "callback": (type(it.callbacks[0]).__name__, getattr(it.callbacks[0], "patience", None)),
        "losses": np.round(losses, 4).tolist(),
        "weights": it.weights,
        "batch norm": {(layer.trainable, layer.momentum) for layer in norms},
        "first layer trains": it.model.layers[kinds.index("Conv2D")].trainable,
        "convolutions": kinds.count("Conv2D"),
        "top": " ".join(sorted(kinds[-5:-1])),
        "whole photos": all(window.tobytes() in whole for window in it.training[0][0]),
        "in memory": hasattr(it.training, "photos"),
        "copies": len(it.training.rows) > 24,
        "looks": it.evaluate_performance.LOOKS,
    }
    if example == "example_1":
        facts["first box"] = look_at_square(it.evaluate_performance, (10, 10, 90, 90))[0]
        facts["last box, small"] = look_at_square(it.evaluate_performance, (70, 70, 80, 80))[-1]
    return facts


def train(run, folder):
    """Apply a recipe, train for a moment and evaluate; return the scripts, model and figures."""
    recipes.apply(run, folder)
    file = folder / run.example / "train_model.py"
    own = [name for name in CONSTANTS if f"{name} = " in run.name]  # what the recipe sets stays
    edit(file, **{name: value for name, value in CONSTANTS.items() if name not in own})
    rows = (folder / "validation.csv").read_text("utf-8").splitlines(keepends=True)
    (folder / "validation.csv").write_text("".join(rows[:3]), "utf-8")  # two photos are enough
    it, fit = SimpleNamespace(), keras.Model.fit

    def keep_and_fit(model, training, **options):
        it.model, it.training, it.callbacks = model, training, options["callbacks"]
        return fit(model, training, **options)

    def create_backbone(weights, **options):
        it.weights = weights
        return create_short_backbone(**options)

    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(keras.Model, "fit", keep_and_fit)
        if "generator" in run.name:
            import_script(folder, "generate_dataset", monkeypatch).main()
        it.train_model = import_script(folder, f"{run.example}/train_model", monkeypatch)
        it.train_model.MobileNetV2 = create_backbone
        it.train_model.main()
        script = f"{run.example}/evaluate_performance"
        it.evaluate_performance = import_script(folder, script, monkeypatch)
        it.figures = results.evaluate(it.evaluate_performance)
    return it


def key_of(run):
    return f"{run.example[-1]}/{run.name.removeprefix('recipes/').removesuffix('.diff')}"


@pytest.mark.usefixtures("eagerly")
@pytest.mark.parametrize("run", RUNS, ids=key_of)
def test_a_recipe_trains_and_changes_what_it_says(csvs, tmp_path_factory, run):
    scripts = {file: file.read_bytes() for file in csvs.rglob("*.py")}
    text = "".join(file.read_text() for file in csvs.glob(f"{run.example}/*.py"))
    assert not re.search(rf"^{re.escape(run.name)}( |$)", text, re.MULTILINE), "it is the default"
    if run in DIFFS:
        recipes.apply(run, csvs)
        recipes.apply(run, csvs, "--reverse")
        assert scripts == {file: file.read_bytes() for file in csvs.rglob("*.py")}
        if run.example not in DEFAULTS:
            copy = shutil.copytree(csvs, tmp_path_factory.mktemp("default") / "copy")
            it = train(recipes.Run(run.example, "default"), copy)
            DEFAULTS[run.example] = describe(it, run.example)
    it = train(run, csvs)
    assert np.isfinite([*it.figures.values()]).all()
    if run in DIFFS:
        default, facts = DEFAULTS[run.example], describe(it, run.example)
        changes = {name: fact for name, fact in facts.items() if fact != default[name]}
        assert changes == CHANGES[key_of(run)]


def test_photos_from_disk_are_known_to_be_missing_before_the_training(csvs):
    path = (csvs / "train.csv").read_text("utf-8").splitlines()[-1].partition(",")[0]
    (csvs / path).unlink()
    with pytest.raises(OSError, match=f"{path} cannot be read"):
        train(recipes.Run("example_1", "recipes/from_disk.diff"), csvs)


def test_an_edited_constant_is_in_no_recipes_way(csvs):
    edits_it_too = ("recipes/as_in_2018.diff", "recipes/generator_copies.diff")
    for run in DIFFS:
        if run.name not in edits_it_too:
            edit(csvs / run.example / "train_model.py", EPOCHS=3, KEPT_SIZE=896, SEED=1)
            recipes.apply(run, csvs)
            recipes.apply(run, csvs, "--reverse")


def test_the_tables_name_every_diff():
    files = recipes.REPOSITORY.glob("example_*/recipes/*.diff")
    named = {f"{run.example}/{run.name}" for run in DIFFS}
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
