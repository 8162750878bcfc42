"""Example 1's recipe: losses, head, augmentation, freezing, schedules; the table of results."""

import csv
import json
import math
import shutil
import subprocess
import sys

import keras
import numpy as np
import pytest
from PIL import Image
from shapely.geometry import box as rectangle

import draw_pets
import results
from conftest import to_numpy

RANDOM = np.random.default_rng(0)
TRUE = RANDOM.uniform((20, 20, 5, 5), (80, 80, 60, 60), (100, 4)).astype("float32")
PREDICTED = np.abs(TRUE + RANDOM.normal(0, 15, TRUE.shape)).astype("float32")


def to_rectangle(box):
    x, y, width, height = map(float, box)
    return rectangle(x - width / 2, y - height / 2, x + width / 2, y + height / 2)


# Losses, against formulas written apart from the scripts


def giou_of(true, predicted):
    true, predicted = to_rectangle(true), to_rectangle(predicted)
    union, around = true.union(predicted), rectangle(*true.union(predicted).bounds)
    iou = true.intersection(predicted).area / union.area
    return iou - (around.area - union.area) / around.area


def ciou_of(true, predicted):
    one, other = to_rectangle(true), to_rectangle(predicted)
    iou = one.intersection(other).area / one.union(other).area
    left, top, right, bottom = one.union(other).bounds
    far = one.centroid.distance(other.centroid) ** 2 / ((right - left) ** 2 + (bottom - top) ** 2)
    angle = math.atan(true[2] / true[3]) - math.atan(predicted[2] / predicted[3])
    shape = 4 / math.pi**2 * angle**2
    return iou - far - shape**2 / (1 - iou + shape + 1e-12)


def smooth_l1_of(difference):
    return [0.5 * d * d if abs(d) < 1 else abs(d) - 0.5 for d in difference]


FORMULAS = {
    "mse": lambda true, predicted: np.mean((true - predicted) ** 2),
    "mae": lambda true, predicted: np.mean(np.abs(true - predicted)),
    "smooth_l1": lambda true, predicted: np.mean(smooth_l1_of(true - predicted)),
    "log_mse": lambda true, predicted: np.mean(np.log((true - predicted) ** 2 + 1)),
    "l1": lambda true, predicted: np.sum(np.abs(true / 96 - predicted / 96)),
    "giou": lambda true, predicted: 1 - giou_of(true, predicted),
    "ciou": lambda true, predicted: 1 - ciou_of(true, predicted),
}


@pytest.mark.parametrize("name", [*FORMULAS, "giou+l1", "ciou+l1", "mse+giou+log_mse"])
def test_losses_are_those_of_the_formulas(train_model, name):
    train_model.LOSS = name
    predicted = np.concatenate([PREDICTED, TRUE + 0.3])  # the latter for the middle of smooth L1
    true = np.concatenate([TRUE, TRUE])
    formulas = [FORMULAS[part] for part in name.split("+")]
    expected = [sum(formula(*pair) for formula in formulas) for pair in zip(true, predicted)]
    assert np.ptp(expected) > 0.1
    np.testing.assert_allclose(to_numpy(train_model.loss(true, predicted)), expected, rtol=1e-3)


@pytest.mark.parametrize("name", FORMULAS)
def test_losses_of_equal_boxes_are_0_and_tested_losses_are_all(train_model, name):
    assert set(train_model.LOSSES) == set(FORMULAS)
    train_model.LOSS = name
    np.testing.assert_allclose(to_numpy(train_model.loss(TRUE, TRUE)), 0, atol=1e-5)


@pytest.mark.parametrize(
    ("predicted", "expected"),
    [
        ((50, 50, 20, 20), 1),
        ((70, 50, 20, 20), 0),  # side by side: nothing around them is empty
        ((90, 50, 20, 20), -1 / 3),  # as far apart as they are wide
        ((1e6, 1e6, 20, 20), -1),
        ((50, 50, -20, 20), 0),  # an empty box within
    ],
)
def test_giou_of_boxes_known_by_hand(train_model, predicted, expected):
    true = np.array([[50, 50, 20, 20]], "float32")
    value = to_numpy(train_model.giou(true, np.array([predicted], "float32")))
    assert value == pytest.approx([expected], abs=1e-3)


@pytest.mark.parametrize("name", FORMULAS)
def test_gradients_are_numbers_and_lead_to_the_box(train_model, name):
    tensorflow = pytest.importorskip("tensorflow")
    train_model.LOSS = name
    predicted = tensorflow.Variable([[60, 40, 30, 30], [10, 10, 5, 5], [50, 50, 20, 20.0]])
    true = tensorflow.constant([[50, 50, 20, 20.0]] * 3)
    with tensorflow.GradientTape() as tape:
        loss = tensorflow.reduce_sum(train_model.loss(true, predicted))
    gradient = tape.gradient(loss, predicted).numpy()
    assert np.isfinite(gradient).all()
    assert gradient[0, 0] > 0 > gradient[0, 1] and gradient[1, 0] < 0 > gradient[1, 1]


# The head


def head_of(train_model):
    """Return a model of the head on maps of 3x3 and 6x6 with 8 channels, and its last layer."""
    features, finer = keras.Input((3, 3, 8)), keras.Input((6, 6, 8))
    head = keras.Model([features, finer], train_model.vote(features, finer))
    return head, next(layer for layer in head.layers if getattr(layer, "filters", None) == 5)


def test_the_answer_is_the_weighted_mean_of_the_cells_votes(train_model):
    head, last = head_of(train_model)
    maps = [RANDOM.normal(0, 3, (4, size, size, 8)).astype("float32") for size in (3, 6)]
    votes = keras.Model(head.input, last.output).predict(maps, verbose=0)
    assert votes.shape == (4, 6, 6, 5)
    expected = []
    for photo in votes.astype("float64"):
        total, corners = 0, np.zeros(4)
        for row in range(6):
            for column in range(6):
                score, *sides = photo[row, column]
                left, top, right, bottom = (96 / (1 + np.exp(-side)) for side in sides)
                x, y = 16 * column + 8, 16 * row + 8
                box = np.array([x - left, y - top, x + right, y + bottom])
                total, corners = total + np.exp(score), corners + np.exp(score) * box
        x_1, y_1, x_2, y_2 = corners / total
        expected.append([(x_1 + x_2) / 2, (y_1 + y_2) / 2, x_2 - x_1, y_2 - y_1])
    np.testing.assert_allclose(head.predict(maps, verbose=0), expected, rtol=1e-4)


def test_cells_without_preference_answer_with_the_middle(train_model):
    head, last = head_of(train_model)
    kernel, _ = last.get_weights()
    bias = [0] + [float(np.log(0.1 / 0.9))] * 4  # each side a tenth of the photo away
    last.set_weights([np.zeros_like(kernel), np.array(bias)])
    (box,) = head.predict([np.ones((1, 3, 3, 8)), np.ones((1, 6, 6, 8))], verbose=0)
    np.testing.assert_allclose(box, [48, 48, 19.2, 19.2], rtol=1e-4)


def test_the_loss_of_votes_is_that_of_the_formula(train_model):
    votes = np.concatenate(
        [RANDOM.uniform(20, 60, (5, 36, 4)), RANDOM.normal(0, 2, (5, 36, 1))], axis=2
    ).astype("float32")
    train_model.LOSS, train_model.VOTE_LOSS = "giou+mae", 0.5
    expected = []
    for true, answer, cells in zip(TRUE, PREDICTED, votes):
        near, wrong, scores = [], [], []
        for index, (*box, score) in enumerate(cells):
            x, y = 16 * (index % 6) + 8, 16 * (index // 6) + 8
            away = ((x - true[0]) / true[2] * 2) ** 2 + ((y - true[1]) / true[3] * 2) ** 2
            near.append(math.exp(-away))
            box = np.array(box)
            wrong.append(FORMULAS["giou"](true, box) + FORMULAS["mae"](true, box))
            scores.append(math.exp(score))
        near, share = np.array(near) / sum(near), np.array(scores) / sum(scores)
        votes_loss = sum(near * wrong) - 0.3 * sum(near * np.log(share))
        box_loss = FORMULAS["giou"](true, answer) + FORMULAS["mae"](true, answer)
        expected.append(box_loss + 0.5 * votes_loss)
    packed = np.concatenate([PREDICTED[:5], votes.reshape(5, -1)], axis=1)
    np.testing.assert_allclose(to_numpy(train_model.loss(TRUE[:5], packed)), expected, rtol=1e-3)
    np.testing.assert_allclose(
        to_numpy(train_model.iou(TRUE[:5], packed)),
        to_numpy(train_model.iou(TRUE[:5], PREDICTED[:5])),
    )


@pytest.mark.parametrize(
    ("head", "vote_loss", "shape"), [("vote", 1, 184), ("vote", 0, 4), ("conv", 1, 4)]
)
def test_what_is_trained_shows_the_votes(train_model, head, vote_loss, shape):
    train_model.HEAD, train_model.VOTE_LOSS = head, vote_loss
    model = train_model.create_model()
    photos = RANDOM.integers(0, 256, (2, 96, 96, 3)).astype("uint8")
    shown = to_numpy(train_model.create_trained_part(model)(photos))
    assert shown.shape == (2, shape)
    np.testing.assert_allclose(shown[:, :4], to_numpy(model(photos)), rtol=1e-4)


@pytest.mark.parametrize(
    ("constants", "layer", "count"),
    [
        ({"HEAD": "conv"}, "4", 1),
        ({"HEAD": "vote"}, "votes", 1),
        ({"HEAD_BLOCKS": 2}, "1024", 2),
        ({"HEAD_BLOCKS": 2, "HEAD_BLOCK": "inverted_res"}, "320", 2),
        ({"HEAD": "conv", "HEAD_BLOCKS": 1, "HEAD_BLOCK": "inverted_res"}, "320", 1),
    ],
)
def test_heads_and_blocks(train_model, constants, layer, count):
    for name, value in constants.items():
        setattr(train_model, name, value)
    model = train_model.create_model()
    assert model.output_shape == (None, 4)
    found = [x for x in model.layers if layer in (x.name, str(getattr(x, "filters", None)))]
    assert len(found) == count
    photos = RANDOM.integers(0, 256, (3, 96, 96, 3)).astype("uint8")
    answers = to_numpy(model(photos))
    assert np.isfinite(answers).all()
    file = train_model.FOLDER / "model-0.10.keras"
    model.save(file)
    loaded = keras.models.load_model(file)
    np.testing.assert_allclose(to_numpy(loaded(photos)), answers, atol=1e-4)


@pytest.mark.parametrize(
    ("backbone", "module", "freeze"),
    [
        ("MobileNetV3Small", "mobilenet_v3", "none"),
        ("MobileNetV3Small", "mobilenet_v3", "all"),
        ("EfficientNetV2B0", "efficientnet_v2", "some"),
    ],
)
def test_another_backbone_is_another_import(project, load_script, backbone, module, freeze):
    script = project / "example_1" / "train_model.py"
    text = script.read_text()
    for old, new in (
        ("MobileNetV2 as Backbone", f"{backbone} as Backbone"),
        ("mobilenet_v2 import", f"{module} import"),
    ):
        assert text.count(old) == 1
        text = text.replace(old, new)
    script.write_text(text)
    train_model = load_script("example_1/train_model")
    train_model.WEIGHTS, train_model.FREEZE = None, freeze
    model = train_model.create_model()
    model.compile(train_model.create_optimizer(), train_model.loss, run_eagerly=True)
    before = model.get_weights()
    model.train_on_batch(np.zeros((2, 96, 96, 3), "uint8"), np.full((2, 4), 48, "float32"))
    changed = [not np.array_equal(*pair) for pair in zip(before, model.get_weights())]
    trainable = sum(len(layer.weights) for layer in model.layers if layer.trainable)
    assert 0 < sum(changed) <= trainable
    assert (trainable == len(before)) == (freeze == "none")


# Augmentation


def test_the_box_goes_where_the_object_goes(train_model):
    random = np.random.default_rng(0)
    sizes = set()
    for _ in range(300):
        left, top = random.integers(5, 45, 2)
        right, bottom = random.integers(50, 91, 2)
        photo = np.full((96, 96, 3), 90, "uint8")
        photo[top:bottom, left:right] = 255
        box = np.array([left + right, top + bottom, 2 * (right - left), 2 * (bottom - top)]) / 2
        changed, (x, y, width, height) = train_model.augment(photo, box, random)
        assert changed.shape == photo.shape and changed.dtype == np.uint8
        bright = changed.astype(int).sum(axis=2)
        # What is around the photo can become brighter than the photo, but not than the box.
        rows, columns = np.nonzero(bright > 0.1 * bright.min() + 0.9 * bright.max())
        found = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
        expected = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
        np.testing.assert_allclose(found, expected, atol=2)
        sizes.add(round(width / (right - left), 1))
    assert min(sizes) <= 0.8 and max(sizes) >= 1.6


def test_the_window_keeps_85_percent_of_the_box(train_model, monkeypatch):
    random, windows = np.random.default_rng(1), []
    transform = Image.Image.transform

    def remember(photo, size, method, data, *others, **more):
        windows.append(data)
        return transform(photo, size, method, data, *others, **more)

    monkeypatch.setattr(Image.Image, "transform", remember)
    kept, mirrored = [], 0
    for _ in range(500):
        size = random.uniform(10, 90, 2)
        box = np.concatenate([random.uniform(size / 2, 96 - size / 2), size])
        _, changed = train_model.augment(np.zeros((96, 96, 3), "uint8"), box, random)
        step_x, _, left, _, step_y, top = windows[-1]
        window = rectangle(
            min(left, left + 96 * step_x), top, max(left, left + 96 * step_x), top + 96 * step_y
        )
        part = to_rectangle(box).intersection(window)
        kept.append(part.area / to_rectangle(box).area)
        mirrored += step_x < 0
        # The changed box, taken back into the photo, is that part.
        back = to_rectangle(changed * [step_x, step_y, abs(step_x), step_y] + [left, top, 0, 0])
        assert back.symmetric_difference(part).area < 1e-3 * part.area
    assert min(kept) >= 0.85 - 1e-9 and min(kept) < 0.9
    assert 200 < mirrored < 300


def test_a_box_as_large_as_the_photo_stays_large(train_model):
    box = np.array([48, 48, 96, 96.0])
    for seed in range(20):
        random = np.random.default_rng(seed)
        _, changed = train_model.augment(np.zeros((96, 96, 3), "uint8"), box, random)
        corners = np.array(to_rectangle(changed).bounds)
        assert corners.min() >= -1e-6 and corners.max() <= 96 + 1e-6 and changed[2:].min() > 54


def test_brightness_contrast_and_saturation_change(train_model):
    photo = np.zeros((96, 96, 3), "uint8")
    photo[:48], photo[48:] = (200, 120, 60), (60, 90, 150)
    box, random = np.array([48, 48, 96, 96.0]), np.random.default_rng(0)
    pictures = [train_model.augment(photo, box, random)[0].astype(int) for _ in range(50)]
    assert np.ptp([picture.mean() for picture in pictures]) > 60
    assert np.ptp([np.ptp(picture.mean(axis=2)) for picture in pictures]) > 20
    assert np.ptp([np.ptp(picture[5, 48]) for picture in pictures]) > 60


@pytest.mark.parametrize("in_memory", [True, False])
def test_only_training_photos_change_and_anew_each_epoch(csvs, train_model, in_memory):
    train_model.AUGMENT, train_model.INMEMORY = True, in_memory

    def epoch(dataset):
        photos, boxes = zip(*(dataset[index] for index in range(len(dataset))))
        assert all(array.dtype == np.float32 for array in boxes)
        return np.concatenate(photos), np.concatenate(boxes)

    validation = train_model.create_dataset("validation.csv")
    first, plain = epoch(validation), validation.photos
    validation.on_epoch_end()
    for array, other in zip(first, epoch(validation)):
        np.testing.assert_array_equal(array, other)
    if in_memory:
        np.testing.assert_array_equal(first[0], plain)

    training, again = (train_model.create_dataset("train.csv", training=True) for _ in range(2))
    orders = []
    for _ in range(2):
        photos, boxes = epoch(training)
        last_first = [again[index] for index in reversed(range(len(again)))][::-1]
        np.testing.assert_array_equal(photos, np.concatenate([batch[0] for batch in last_first]))
        np.testing.assert_array_equal(boxes, np.concatenate([batch[1] for batch in last_first]))
        orders.append(sorted(photo.tobytes() for photo in photos))
        training.on_epoch_end(), again.on_epoch_end()
    assert not set(orders[0]) & set(orders[1])


def test_augmentation_needs_neither_imgaug_nor_opencv(project):
    code = (
        "import sys, numpy as np; sys.modules.update(cv2=None, imgaug=None); import train_model; "
        "photo, box = np.zeros((96, 96, 3), 'uint8'), np.full(4, 48.0); "
        "train_model.augment(photo, box, np.random.default_rng())"
    )
    command = [sys.executable, "-c", code]
    assert subprocess.run(command, cwd=project / "example_1", timeout=120).returncode == 0


# Freezing


@pytest.mark.parametrize(("freeze", "head"), [("some", "vote"), ("some", "conv"), ("all", "conv")])
def test_kept_maps_give_the_same_answers(csvs, train_model, freeze, head):
    train_model.FREEZE, train_model.HEAD, train_model.AUGMENT = freeze, head, False
    dataset = train_model.create_dataset("train.csv")
    model = train_model.create_model()
    answers = to_numpy(model(dataset[1][0]))
    part = train_model.create_trained_part(model, dataset)
    maps, _ = dataset[1]
    assert {array.shape[1] for array in maps} == {12 if freeze == "some" else 3}
    np.testing.assert_allclose(to_numpy(part(maps))[:, :4], answers, rtol=1e-4)
    assert len(part.trainable_weights) == len(model.trainable_weights)


@pytest.mark.usefixtures("short_backbone")
def test_training_on_kept_maps_gives_the_same_numbers(csvs, train_model):
    train_model.FREEZE, train_model.AUGMENT = "all", False
    logs = []
    for train_model.INMEMORY in (True, False):
        train_model.main()
        with open(train_model.FOLDER / "log.csv") as log_file:
            logs.append(
                [[float(value) for value in row.values()] for row in csv.DictReader(log_file)]
            )
        (file,) = train_model.FOLDER.glob("model-*.keras")
        model = keras.models.load_model(file, compile=False)
        assert model.input_shape == (None, 96, 96, 3) and model.output_shape == (None, 4)
        dataset = train_model.create_dataset("validation.csv")
        ious = to_numpy(train_model.iou(dataset.targets, model.predict(dataset, verbose=0)))
        assert f"model-{ious.mean():.2f}.keras" == file.name
        file.unlink()
    assert len(logs[0]) == 2
    np.testing.assert_allclose(*logs, rtol=1e-4)


@pytest.mark.parametrize(("freeze", "last"), [("some", "block_6_expand_relu"), ("all", "out_relu")])
def test_what_is_frozen_stays_as_it_is(csvs, train_model, freeze, last):
    train_model.FREEZE = freeze
    model = train_model.create_model()
    names = [layer.name for layer in model.layers]
    frozen = model.layers[: names.index(last) + 1]
    before = [layer.get_weights() for layer in frozen]
    model.compile(train_model.create_optimizer(), train_model.loss, run_eagerly=True)
    model.train_on_batch(*train_model.create_dataset("train.csv")[0])
    for layer, weights in zip(frozen, before):
        for old, new in zip(weights, layer.get_weights()):  # moving averages too
            np.testing.assert_array_equal(old, new)
    if freeze == "some":
        assert all(layer.trainable for layer in model.layers[names.index(last) + 1 :])


def test_frozen_batch_norm_keeps_its_averages_and_the_rest_learns(csvs, train_model):
    train_model.FREEZE = "batch_norm"
    model = train_model.create_model()
    kinds = (keras.layers.BatchNormalization, keras.layers.Conv2D)
    backbone = model.layers[: [layer.name for layer in model.layers].index("out_relu")]
    norms, convolutions = ([layer for layer in backbone if type(layer) is kind] for kind in kinds)
    before = [[layer.get_weights() for layer in found] for found in (norms, convolutions)]
    model.compile(train_model.create_optimizer(), train_model.loss, run_eagerly=True)
    model.train_on_batch(*train_model.create_dataset("train.csv")[0])
    for layer, weights in zip(norms, before[0]):
        for old, new in zip(weights, layer.get_weights()):
            np.testing.assert_array_equal(old, new)
    for layer, (weights, *_) in zip(convolutions, before[1]):
        assert not np.array_equal(weights, layer.get_weights()[0])


# Optimizers and schedules


def test_optimizers(train_model):
    for train_model.OPTIMIZER, kind in (
        ("adam", keras.optimizers.Adam),
        ("adamw", keras.optimizers.AdamW),
        ("sgd", keras.optimizers.SGD),
    ):
        optimizer = train_model.create_optimizer()
        assert type(optimizer) is kind
        assert float(optimizer.learning_rate) == pytest.approx(train_model.LEARNING_RATE)
        assert getattr(optimizer, "momentum", 0.9) == 0.9


@pytest.mark.parametrize("epochs", [1, 2, 10, 75])
def test_the_learning_rate_rises_and_falls_as_a_cosine(train_model, epochs):
    train_model.EPOCHS, train_model.LEARNING_RATE, train_model.WARM_UP = epochs, 0.01, 5
    schedule = train_model.create_schedule()
    warm_up = min(5, epochs // 10)
    for epoch in range(epochs):
        middle = epoch + 0.5
        progress = (middle - warm_up) / (epochs - warm_up)
        cosine = (1 + math.cos(math.pi * progress)) / 2
        expected = 0.01 * (middle / warm_up if middle < warm_up else cosine)
        assert schedule.schedule(epoch) == pytest.approx(expected, rel=1e-3)


def test_the_plateau_lowers_the_learning_rate(train_model):
    train_model.SCHEDULE = "plateau"
    schedule = train_model.create_schedule()
    model = keras.Sequential([keras.layers.Dense(1)])
    model.compile(keras.optimizers.Adam(0.01))
    schedule.set_model(model)
    schedule.on_train_begin()
    for epoch in range(12):
        schedule.on_epoch_end(epoch, {"val_iou": 0.5})
    assert float(model.optimizer.learning_rate) == pytest.approx(0.002)


# The tables


@pytest.mark.usefixtures("short_backbone")
def test_results_are_kept_and_written_into_the_readme(project, monkeypatch):
    draw_pets.draw_dataset(project, 12)
    readme = project / "README.md"
    names = ("how we got here", "the guidelines, tried", "examples 2 and 3")
    readme.write_text("".join(f"A\n<!-- {name} -->\nold\n<!-- end -->\nB\n" for name in names))
    small = {"WEIGHTS": None, "FREEZE": "none", "ALPHA": 0.35, "EPOCHS": 1, "HEAD": "conv"}
    classes = {**small, "EXAMPLE": 2, "CLASSES": 3}
    (project / "tests").mkdir()
    program = shutil.copy(results.__file__, project / "tests")
    monkeypatch.setattr(results, "__file__", program)
    monkeypatch.setattr(results, "REPOSITORY", project)
    monkeypatch.setattr(results, "RESULTS", project / "results.csv")
    monkeypatch.setattr(results, "steps", lambda: [("a row", small, (0, 1)), ("none", {}, ())])
    monkeypatch.setattr(results, "guidelines", lambda: [("again", small, (1,))])
    monkeypatch.setattr(results, "OTHERS", [("two", classes, "accuracy")])
    monkeypatch.setattr(sys, "argv", ["results.py", str(project)])
    rows = [(*results.FIGURES, "constants")]  # all runs but one are finished
    finished = [(small, 0), (small, 1), (classes, 0), (classes, 2)]
    rows += [
        (0.5, 0.2 + seed, 0.75, 3, 0.9, results.key(*run)) for seed, run in enumerate(finished)
    ]
    with open(project / "results.csv", "w", newline="") as csv_file:
        csv.writer(csv_file).writerows(rows)
    results.main()
    text = readme.read_text()
    assert text.count("A\n") == text.count("\nB\n") == 3 and "old" not in text
    assert "| a row | 2 | 0.500 | 0.700 | 75% | 3.0 |\n" in text and "none" not in text
    assert "| again | 1 | 0.500 | 1.200 | 75% | 3.0 |\n" in text
    with open(project / "results.csv") as csv_file:
        *_, new = csv.DictReader(csv_file)
    assert json.loads(new["constants"])["CLASSES"] == 3
    training, accuracy = float(new["training"]), float(new["other"])
    assert 0 < training < 1 and 0 <= accuracy <= 1
    assert f"| two | 3 | {(1 + training) / 3:.3f} |" in text
    assert f"| accuracy {(1.8 + accuracy) / 3:.3f} |\n" in text
    monkeypatch.setattr(results.subprocess, "run", None)  # nothing is trained again
    readme.write_text(text.replace("| a row", "| changed"))
    results.main()
    assert readme.read_text() == text


def test_constants_that_came_later_had_their_defaults(project, monkeypatch):
    monkeypatch.setattr(results, "RESULTS", project / "results.csv")
    constants = json.loads(results.key({}, 5))
    for name in ("EXAMPLE", "VOTE_LOSS"):
        del constants[name]
    with open(project / "results.csv", "w", newline="") as csv_file:
        rows = [(*results.FIGURES, "constants"), (1, 1, 1, 1, "", json.dumps(constants))]
        csv.writer(csv_file).writerows(rows)
    assert list(results.read_results()) == [results.key({}, 5)]
