"""Example 2: the losses of the classes, the classes' names, what evaluation says of them."""

import csv
import re

import keras
import numpy as np
import pytest
from PIL import Image

from conftest import message_of, to_numpy

RANDOM = np.random.default_rng(0)


@pytest.fixture
def example():
    """Return the folder of the example that this file is about."""
    return "example_2"


def rename_classes(csvs, names):
    """Give the rows of both CSVs the class names in turn."""
    for file in (csvs / "train.csv", csvs / "validation.csv"):
        with open(file) as csv_file:
            rows = list(csv.DictReader(csv_file))
        with open(file, "w", newline="") as csv_file:
            writer = csv.DictWriter(csv_file, rows[0])
            writer.writeheader()
            for index, row in enumerate(rows):
                writer.writerow({**row, "class_name": names[index % len(names)]})


# The losses, against formulas written apart from the scripts


def focal_of(p, p_hat, alpha=0.9, gamma=2):
    p, p_hat = np.float64(p), np.float64(p_hat)
    return -(
        alpha * (1 - p_hat) ** gamma * p * np.log(p_hat)
        + (1 - alpha) * p_hat**gamma * (1 - p) * np.log(1 - p_hat)
    )


@pytest.mark.parametrize("options", [{}, {"alpha": 0.25, "gamma": 0}, {"alpha": 0.5, "gamma": 5}])
def test_focal_loss_is_the_formula_and_keras(train_model, options):
    p_hat = np.linspace(0.001, 0.999, 999).astype("float32")
    for p in (0, 1):
        true = np.full(999, p, "float32")
        values = to_numpy(train_model.focal_loss(true, p_hat, **options))
        np.testing.assert_allclose(values, focal_of(true, p_hat, **options), rtol=1e-4, atol=1e-7)
        alpha, gamma = options.get("alpha", 0.9), options.get("gamma", 2)
        of_keras = keras.losses.binary_focal_crossentropy(
            true[:, None], p_hat[:, None], apply_class_balancing=True, alpha=alpha, gamma=gamma
        )
        np.testing.assert_allclose(values, to_numpy(of_keras), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("p", [0, 1])
@pytest.mark.parametrize("p_hat", [0, 1, 1e-30, 1 - 1e-7, 0.5])
def test_focal_loss_and_its_gradient_are_finite_at_the_ends(train_model, p, p_hat):
    tensorflow = pytest.importorskip("tensorflow")
    predicted = tensorflow.Variable([float(p_hat)])
    with tensorflow.GradientTape() as tape:
        value = train_model.focal_loss(tensorflow.constant([float(p)]), predicted)
    gradient = tape.gradient(value, predicted).numpy()
    assert np.isfinite(value.numpy()).all() and np.isfinite(gradient).all()
    assert (value.numpy() < 1e-5) == (p == round(p_hat, 3))


def test_many_classes_have_the_categorical_cross_entropy(train_model):
    train_model.CLASSES = 4
    probabilities = RANDOM.dirichlet(np.ones(4), 20).astype("float32")
    true = RANDOM.integers(0, 4, 20)
    expected = [-np.log(row[index]) for row, index in zip(probabilities, true)]
    values = to_numpy(train_model.class_loss(true.astype("float32"), probabilities))
    np.testing.assert_allclose(values, expected, rtol=1e-4)


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("weights", [(1, 1), (2, 0), (0, 3)])
def test_the_loss_is_the_weighted_sum(train_model, classes, weights):
    train_model.CLASSES = classes
    train_model.BOX_WEIGHT, train_model.CLASS_WEIGHT = weights
    train_model.LOSS, train_model.FOCAL_ALPHA = "log_mse", 0.8
    boxes, guesses = RANDOM.uniform(20, 60, (2, 6, 4))
    ids, probabilities = np.arange(6) % classes, RANDOM.dirichlet(np.ones(classes), 6)
    expected = []
    for box, guess, index, row in zip(boxes, guesses, ids, probabilities):
        of_box = np.mean(np.log(1 + (guess - box) ** 2))
        of_class = focal_of(index == 0, row[0], 0.8) if classes == 2 else -np.log(row[index])
        expected.append(weights[0] * of_box + weights[1] * of_class)
    true = np.column_stack([boxes, ids]).astype("float32")
    predicted = np.column_stack([guesses, probabilities]).astype("float32")
    np.testing.assert_allclose(to_numpy(train_model.loss(true, predicted)), expected, rtol=1e-4)
    votes = RANDOM.uniform(20, 60, (6, 4, 5)).astype("float32")
    with_votes = np.column_stack([predicted, votes.reshape(6, 20)])
    of_votes = to_numpy(train_model.vote_loss(true[:, :4], votes.reshape(6, 20)))
    assert of_votes.min() > 0.1
    expected = np.add(expected, weights[0] * of_votes)
    np.testing.assert_allclose(to_numpy(train_model.loss(true, with_votes)), expected, rtol=1e-4)


def test_metrics_of_answers_known_by_hand(train_model):
    train_model.CLASSES = 3
    box = [50, 50, 20, 20]
    true = np.array([[*box, 0], [*box, 2], [*box, 1]], "float32")
    predicted = np.array(
        [[*box, 0.6, 0.3, 0.1], [60, 50, 20, 20, 0.1, 0.2, 0.7], [*box, 0.5, 0.4, 0.1]], "float32"
    )
    score, iou, accuracy = (to_numpy(metric(true, predicted)) for metric in train_model.METRICS)
    np.testing.assert_allclose(accuracy, [1, 1, 0])
    np.testing.assert_allclose(iou, [1, 1 / 3, 1], rtol=1e-5)
    np.testing.assert_allclose(score, [1, 1 / 3, 0], rtol=1e-5)


# The model and its classes


@pytest.mark.parametrize(
    "constants",
    [
        {},
        {"CLASSES": 5, "HEAD": "conv"},
        {"HEAD_BLOCKS": 1, "FREEZE": "all"},
    ],
)
def test_the_model_answers_with_a_box_and_probabilities(train_model, constants):
    for name, value in constants.items():
        setattr(train_model, name, value)
    model = train_model.create_model()
    assert model.output_names == ["coords", "classes"]
    photos = RANDOM.integers(0, 256, (3, 96, 96, 3)).astype("uint8")
    boxes, probabilities = map(to_numpy, model(photos))
    assert boxes.shape == (3, 4) and probabilities.shape == (3, train_model.CLASSES)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)
    shown = to_numpy(train_model.create_trained_part(model)(photos))
    np.testing.assert_allclose(shown[:, :4], boxes, rtol=1e-4)
    np.testing.assert_allclose(shown[:, 4 : 4 + train_model.CLASSES], probabilities, rtol=1e-4)


@pytest.mark.parametrize(
    ("classes", "positive", "expected"),
    [
        (2, None, ["Amber_Cat", "not Amber_Cat"]),
        (2, "grey_cat", ["grey_cat", "not grey_cat"]),
        (3, None, ["Amber_Cat", "grey_cat", "spotless_beagle"]),
    ],
)
def test_classes_have_their_names_and_photos_their_class(
    csvs, train_model, classes, positive, expected
):
    train_model.CLASSES, train_model.POSITIVE_CLASS = classes, positive
    assert train_model.list_classes() == expected
    dataset = train_model.create_dataset("validation.csv")
    with open(csvs / "validation.csv") as csv_file:
        names = [row["class_name"] for row in csv.DictReader(csv_file)]
    for name, target in zip(names, dataset.targets):
        assert expected[int(target[4])] == (name if name in expected else f"not {expected[0]}")


def test_a_class_stays_with_its_photo_while_it_is_changed(csvs, train_model):
    dataset = train_model.create_dataset("train.csv", training=True)
    assert dataset.augment
    (before, after) = (
        np.concatenate([batch[1] for batch in (dataset[index] for index in range(len(dataset)))])
        for dataset in (dataset, train_model.create_dataset("train.csv"))
    )
    np.testing.assert_array_equal(before[:, 4], after[dataset.order, 4])
    assert np.abs(before[:, :4] - after[dataset.order, :4]).max() > 5


def test_two_classes_are_called_by_both_names(csvs, train_model):
    rename_classes(csvs, ["dog", "cat"])
    assert train_model.list_classes() == ["cat", "dog"]
    train_model.POSITIVE_CLASS = "dog"
    assert train_model.list_classes() == ["dog", "cat"]


@pytest.mark.parametrize(
    ("constant", "value", "parts"),
    [
        ("CLASSES", 5, ["CLASSES = 5", "3"]),
        ("CLASSES", 1, ["CLASSES = 1", "3"]),
        ("CLASSES", "3", ["CLASSES = '3'"]),
        ("CLASSES", 3.0, ["CLASSES = 3.0"]),
        ("POSITIVE_CLASS", "horse", ["horse", "Amber_Cat, grey_cat, spotless_beagle"]),
        ("BOX_WEIGHT", -1, ["BOX_WEIGHT = -1"]),
        ("CLASS_WEIGHT", "1", ["CLASS_WEIGHT = '1'"]),
        ("FOCAL_ALPHA", 1.5, ["FOCAL_ALPHA = 1.5", "from 0 to 1"]),
    ],
)
def test_a_wrong_constant_is_named(csvs, train_model, constant, value, parts):
    setattr(train_model, constant, value)
    message = message_of(train_model.main)
    for part in parts:
        assert part in message


def test_one_class_is_not_enough(csvs, train_model):
    rename_classes(csvs, ["cat"])
    assert "example 1" in message_of(train_model.main)


def test_a_class_that_training_has_not(csvs, train_model):
    text = (csvs / "validation.csv").read_text()
    (csvs / "validation.csv").write_text(text.replace(",grey_cat,", ",lion,"))
    train_model.CLASSES = 3
    assert "lion" in message_of(train_model.main)


# From the CSVs to pictures


@pytest.mark.usefixtures("short_backbone")
def test_train_and_evaluate_end_to_end(csvs, train_model, evaluate_performance, capsys):
    train_model.CLASSES, train_model.EPOCHS, evaluate_performance.MIRROR = 3, 3, False
    train_model.main()
    (file,) = train_model.FOLDER.glob("model-*.keras")
    with open(train_model.FOLDER / "log.csv") as log_file:
        log = list(csv.DictReader(log_file))
    assert {"val_iou", "val_accuracy", "val_score"} <= set(log[0])
    best = max(log, key=lambda row: float(row["val_score"]))
    assert file.name == f"model-{float(best['val_score']):.2f}.keras"
    capsys.readouterr()

    evaluate_performance.main()
    printed = capsys.readouterr().out
    line = next(line for line in printed.splitlines() if line.startswith("validation "))
    assert float(line.split()[2]) == pytest.approx(float(best["val_iou"]), abs=2e-3)
    accuracy = float(re.search(r"Accuracy: ([\d.]+)%", printed).group(1)) / 100
    assert accuracy == pytest.approx(float(best["val_accuracy"]), abs=2e-3)
    assert re.search(r"Always answering \w+: 33.3%", printed) and "precision" in printed
    with open(csvs / "validation.csv") as csv_file:
        rows = list(csv.DictReader(csv_file))
    assert len(list((train_model.FOLDER / "predictions").iterdir())) == len(rows)
    with Image.open(train_model.FOLDER / "confusion.png") as confusion:
        assert len(confusion.convert("RGB").getcolors(10**6)) > 10

    evaluate_performance.IMAGES = "images/grey_*.jpg"
    evaluate_performance.main()
    lines = [x for x in capsys.readouterr().out.splitlines() if "box from" in x]
    names = "Amber_Cat|grey_cat|spotless_beagle"
    assert len(lines) == 10
    assert all(re.search(rf"\.jpg: ({names}) \d+%, box from", line) for line in lines)


def test_precision_recall_and_the_matrix_are_those_counted_by_hand(
    csvs, train_model, evaluate_performance, capsys
):
    train_model.CLASSES = 3
    true = np.repeat([0, 1, 2], [5, 3, 2])
    predicted = np.array([0, 0, 0, 1, 2, 1, 1, 0, 2, 2])
    evaluate_performance.print_classes(true, predicted)
    lines = capsys.readouterr().out.splitlines()
    rows = [line.split()[1:] for line in lines if re.match(" *(Amber_Cat|grey_cat|spotless)", line)]
    assert rows[0][:2] == ["0.750", "0.600"]
    assert rows[1][:2] == ["0.667", "0.667"]
    assert rows[2][:2] == ["0.667", "1.000"]
    assert rows[3:] == [["3", "1", "1"], ["1", "2", "0"], ["0", "0", "2"]]
    printed = " ".join(lines)
    assert "Accuracy: 70.0%. Always answering Amber_Cat: 50.0%." in printed


def test_each_box_has_its_label_and_colour(evaluate_performance):
    photo = Image.new("RGB", (400, 300), "gray")
    evaluate_performance.draw_boxes(
        photo, (220, 100, 320, 200), "cat 97%", (60, 80, 160, 180), "dog"
    )
    assert photo.getpixel((220, 150)) == photo.getpixel((280, 200)) == (255, 0, 0)
    assert photo.getpixel((60, 120)) == photo.getpixel((150, 80)) == (0, 255, 0)
    pixels = np.asarray(photo)
    red, green = pixels[85:98, 222:260], pixels[184:194, 62:90]  # above, and below
    for ground, colour in ((red, (255, 0, 0)), (green, (0, 255, 0))):
        assert (ground == colour).all(axis=2).mean() > 0.3, "no ground"
        assert (ground.max(axis=2) < 60).any(), "no text"


@pytest.mark.parametrize("box", [(0, 0, 30, 30), (380, 280, 400, 300), (-50, -50, 500, 500)])
def test_labels_stay_in_the_photo(evaluate_performance, box):
    for below in (True, False):
        photo = Image.new("RGB", (400, 300), "gray")
        evaluate_performance.draw_label(photo, box, "a long name 100%", (255, 0, 0), below)
        alone = Image.new("RGB", (400, 300), "gray")
        evaluate_performance.draw_label(
            alone, (100, 150, 120, 200), "a long name 100%", (255, 0, 0), below
        )
        drawn, expected = ((np.asarray(x) != 128).any(axis=2).sum() for x in (photo, alone))
        assert drawn == expected > 0


def test_wrong_classes_come_first_on_the_contact_sheet(
    csvs, train_model, evaluate_performance, monkeypatch
):
    train_model.CLASSES = 3
    ious = np.array([0.9, 0.1, 0.5, 0.7, 0.3, 0.6])
    probabilities = np.eye(3)[[0, 1, 2, 0, 1, 2]]
    class_ids = np.array([1, 1, 2, 0, 2, 2])  # the first and the fifth are wrong
    corners = np.full((6, 4), 50) * [1, 1, 2, 2]
    paths = sorted((csvs / "images").iterdir())[:6]
    known = (paths, corners, corners, probabilities, class_ids, ious)
    monkeypatch.setattr(evaluate_performance, "predict_csv", lambda *_: known)
    sheets = []
    monkeypatch.setattr(evaluate_performance, "draw_contact_sheet", lambda *x: sheets.append(x))
    evaluate_performance.evaluate_csvs(None)
    ((_, labels, order),) = sheets
    assert list(order) == [4, 0, 1, 2, 5, 3]
    assert labels[0] == "Amber_Cat 100%, IoU 0.90"


def test_mirroring_answers_with_both_means(train_model, evaluate_performance):
    photos = RANDOM.integers(0, 256, (3, 96, 96, 3)).astype("uint8")
    train_model.CLASSES = 3
    model = train_model.create_model()
    (boxes, probabilities), (turned, others) = (
        map(to_numpy, model(given)) for given in (photos, photos[:, :, ::-1])
    )
    turned = np.column_stack([96 - turned[:, 0], turned[:, 1:]])
    means = model_means = (boxes + turned) / 2, (probabilities + others) / 2
    means = map(to_numpy, evaluate_performance.add_mirror(model)(photos))
    for mean, expected in zip(means, model_means):
        np.testing.assert_allclose(mean, expected, rtol=1e-4)


def test_a_model_for_another_number_of_classes(csvs, train_model, evaluate_performance):
    train_model.create_model().save(train_model.FOLDER / "model-0.50.keras")
    train_model.CLASSES = 3
    assert "CLASSES is 3" in message_of(evaluate_performance.main)
