"""Example 2: the focal loss, the classes and their names, what evaluation says of them."""

import re

import keras
import numpy as np
import pytest
from PIL import Image

from checks import check_gradient, message_of
from exports import check_exports
from scripts import make_run, predict, read_predictions, to_numpy

RANDOM = np.random.default_rng(0)
NAMES = ["Amber_Cat", "grey_cat", "spotless_beagle"]


def breed_of(path):
    """Return the class of a drawn pet, which its file's name begins with."""
    return re.search(r"([^/]+)_\d+\.jpg$", str(path)).group(1)


def test_focal_loss_is_the_papers_and_keras_and_a_number_at_the_ends(train_model):
    predicted = RANDOM.dirichlet(np.ones(4), 50).astype("float32")
    numbers = RANDOM.integers(0, 4, 50)
    true = np.eye(4, dtype="float32")[numbers]
    values = to_numpy(train_model.focal_loss(true, predicted))
    of_true = predicted[np.arange(50), numbers].astype("float64")
    np.testing.assert_allclose(values, -((1 - of_true) ** 2) * np.log(of_true), rtol=1e-4)
    of_keras = keras.losses.CategoricalFocalCrossentropy(alpha=1, gamma=2, reduction="none")
    np.testing.assert_allclose(values, to_numpy(of_keras(true, predicted)), rtol=1e-4, atol=1e-6)

    predicted = [[0.0, 1.0], [1.0, 0.0], [1e-30, 1.0], [1 - 1e-7, 1e-7], [0.5, 0.5]]
    loss = check_gradient(train_model.focal_loss, np.float32([[1, 0]] * 5), predicted)
    assert loss[0] > 10 and loss[1] < 1e-5


def test_which_classes_are_told_apart(train_model):
    rows = [{"class_name": name} for name in (*reversed(NAMES), "Amber_Cat")]
    new = [*rows, {"class_name": "a new one"}]
    for train_model.CLASSES, given, classes, numbers in (
        (2, rows, ["Amber_Cat", "2 others"], [1, 1, 0, 0]),
        (3, rows, NAMES, [2, 1, 0, 0]),
        (4, rows, NAMES, [2, 1, 0, 0]),
        (None, new, [NAMES[0], "a new one", *NAMES[1:]], [3, 2, 0, 0, 1]),
        (3, new, ["Amber_Cat", "a new one", "2 others"], [2, 2, 0, 0, 1]),
    ):
        assert train_model.list_classes(given) == classes
        one_hot = train_model.to_one_hot(given, classes)
        np.testing.assert_array_equal(one_hot, np.eye(len(classes))[numbers])


def test_classes_that_cannot_be_learned_end_the_training_in_one_line(csvs, train_model):
    """Else a breed that no training photo shows would count as all others."""
    text = (csvs / "train.csv").read_text()
    (csvs / "train.csv").write_text(text.replace("Amber_Cat,", "a cat,"))
    expected = "validation.csv has classes that are not in train.csv: ['Amber_Cat']"
    assert message_of(train_model.main) == expected


def test_the_loss_is_the_weighted_sum_of_both(trained):
    train_model, run = trained
    rows = train_model.read_csv(run / "validation.csv")
    windows, true = train_model.PhotoDataset(rows, NAMES)[0]
    numbers = [NAMES.index(breed_of(row["path"])) for row in rows]
    np.testing.assert_array_equal(true["classes"], np.eye(3)[numbers])
    model = keras.models.load_model(run / "model.keras", compile=False)
    predicted = model.predict(windows)
    box_loss = to_numpy(train_model.box_loss(true["coords"], predicted["coords"])).mean()
    class_loss = to_numpy(train_model.focal_loss(true["classes"], predicted["classes"])).mean()
    assert class_loss > 0.02
    log = np.genfromtxt(run / "log.csv", delimiter=",", names=True)
    assert log["val_loss"][-1] == pytest.approx(2 * box_loss + class_loss, rel=1e-3)


@pytest.mark.oldest
def test_the_figures_are_those_of_the_predictions(trained):
    train_model, run = trained
    rows, printed = read_predictions(run), (run / "printed.txt").read_text()
    for row in rows:
        assert row["true_class_name"] == breed_of(row["path"])
        assert row["is_right"] == str(row["class_name"] == row["true_class_name"])
        assert row["class_name"] in NAMES and 1 / 3 < float(row["probability"]) <= 1
    iou, first = (np.mean([float(row[name]) for row in rows]) for name in ("iou", "first_iou"))
    assert f"validation.csv: 6 photos, IoU {iou:.3f} (after the first look {first:.3f})" in printed
    right = np.mean([row["is_right"] == "True" for row in rows])
    assert f"Accuracy: {right:.1%}. Always predicting Amber_Cat: 33.3%." in printed
    rows, predicted = predict(train_model, "train.csv")
    numbers = [NAMES.index(breed_of(row["path"])) for row in rows]
    right = predicted["classes"].argmax(axis=1) == numbers
    assert np.mean(right) > 0.6, "a third of the photos has each class"


class SeeingModel:
    """Stands in for the network: finds the bright box in a window; its probabilities are given."""

    input_shape = (None, 96, 96, 3)

    def __init__(self, *probabilities):
        self.probabilities = iter(probabilities)

    def predict_on_batch(self, windows):
        bright = Image.fromarray(windows[0]).convert("1", dither=Image.Dither.NONE)
        box = np.float32([bright.getbbox() or (200, 200, 201, 201)]) / 96  # outside of the photo
        return {"coords": box, "classes": np.float32([next(self.probabilities)])}


def test_each_look_is_closer_and_the_class_is_the_mean_of_all(evaluate_performance):
    photo = Image.new("RGB", (1000, 700), "black")
    photo.paste("white", (613, 402, 650, 431))
    model = SeeingModel([0.6, 0.4, 0.0], [0.1, 0.8, 0.1], [0.2, 0.6, 0.2])
    boxes, agreement, probabilities = evaluate_performance.look(model, photo)
    np.testing.assert_allclose(probabilities, [0.3, 0.6, 0.1], rtol=1e-5)
    corners = [evaluate_performance.to_pixels(box, photo) for box in boxes]
    errors = np.abs(np.array(corners) - (613, 402, 650, 431)).max(axis=1)
    assert len(errors) == 3 and errors[0] > 3 and errors[1:].max() < 1 and agreement > 0.9
    lost = SeeingModel(*np.eye(3))
    boxes, agreement, _ = evaluate_performance.look(lost, Image.new("RGB", (1000, 700)))
    np.testing.assert_array_equal(boxes, [[0, 0, 1, 1]] * 3)
    assert agreement == 0, "what is outside of the photo is no box, and never sure"


def test_the_classes_are_those_of_the_model_and_others_are_the_others(
    csvs, train_model, evaluate_performance, monkeypatch, capsys
):
    """Whatever classes the CSVs and the constants have now; and wrong classes are shown first."""
    sheets, train_model.CLASSES = [], 3
    run = make_run(train_model)
    (run / "classes.json").write_text('["Amber_Cat", "2 others"]')
    monkeypatch.setattr(keras.models, "load_model", lambda *_, **__: None)
    monkeypatch.setattr(evaluate_performance, "draw_contact_sheet", lambda *a: sheets.append(a[0]))

    def look(model, photo):
        box = RANDOM.uniform((0.1, 0.1, 0.6, 0.6), (0.4, 0.4, 0.9, 0.9))
        return np.stack([box] * 3), RANDOM.uniform(), np.array([0.6, 0.4])

    monkeypatch.setattr(evaluate_performance, "look", look)
    evaluate_performance.main()
    rows = {row["picture"]: row for row in read_predictions(run)}
    for row in rows.values():
        is_amber = breed_of(row["path"]) == "Amber_Cat"
        assert row["true_class_name"] == ("Amber_Cat" if is_amber else "2 others")
        assert row["is_right"] == str(is_amber) and row["class_name"] == "Amber_Cat"
        assert row["probability"] == "0.6"
    agreements = [float(row["agreement"]) for row in rows.values()]
    assert agreements == sorted({*agreements}) and len(rows) == 6
    shown = [rows[file.name] for file in sheets[0]]
    order = [(row["is_right"], float(row["iou"])) for row in shown]
    assert order == sorted(order) and len({is_right for is_right, _ in order}) == 2
    capsys.readouterr()
    evaluate_performance.main([str(csvs / "images" / "grey_cat_1.jpg")])
    assert re.search(r"grey_cat_1.jpg: Amber_Cat 60%, box \[", capsys.readouterr().out)


def test_the_report_and_the_matrix_are_those_counted_by_hand(
    project, evaluate_performance, monkeypatch, capsys
):
    names = ["Amber_Cat", "$5", r"$\frac$"]  # no formulas
    true, predicted = [0, 0, 0, 0, 0, 1, 1, 1, 2, 2], [0, 0, 0, 1, 2, 1, 1, 0, 2, 2]
    columns = [(names[i], names[j], i == j) for i, j in zip(true, predicted)]
    rows = [dict(zip(("true_class_name", "class_name", "is_right"), row)) for row in columns]
    display, matrices = evaluate_performance.ConfusionMatrixDisplay, []

    def remember(matrix, **options):
        matrices.append(matrix.tolist())
        return display(matrix, **options)

    monkeypatch.setattr(evaluate_performance, "ConfusionMatrixDisplay", remember)
    evaluate_performance.print_classes(rows, names, project / "confusion.png")
    assert matrices == [[[3, 1, 1], [1, 2, 0], [0, 0, 2]]], "a row for each true class"
    printed = " ".join(capsys.readouterr().out.split())
    for line in "70.0%. Always predicting Amber_Cat: 50.0%.", "Amber_Cat 0.75 0.60", "$5 0.67 0.67":
        assert line in printed
    with Image.open(project / "confusion.png") as matrix:
        assert len(matrix.convert("RGB").getcolors(10**6)) > 10


@pytest.mark.oldest
def test_the_exported_model_answers_as_keras_does(trained, tmp_path):
    check_exports(*trained, tmp_path)
