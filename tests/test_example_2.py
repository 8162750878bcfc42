"""Example 2: the focal loss, the classes and their names, what evaluation says of them."""

import json
import re
import shutil

import keras
import numpy as np
import pytest
from PIL import Image

from checks import check_gradient, message_of
from exports import check_exports
from scripts import create_small_model, predict, read_predictions, to_numpy, train

RANDOM = np.random.default_rng(0)
NAMES = ["Amber_Cat", "grey_cat", "spotless_beagle"]


def breed_of(path):
    """Return the class of a drawn pet, which its file's name begins with."""
    return re.search(r"([^/]+)_\d+\.jpg$", str(path)).group(1)


class SeeingModel:
    """Stands in for the network: finds the bright box in a window; its probabilities are given."""

    def __init__(self, *probabilities):
        self.probabilities = iter(probabilities)

    def predict_on_batch(self, windows):
        bright = Image.fromarray(windows[0]).convert("1", dither=Image.Dither.NONE)
        corners = np.float32(bright.getbbox() or (200, 200, 201, 201))  # outside of the photo
        coords = np.concatenate([(corners[:2] + corners[2:]) / 2, corners[2:] - corners[:2]])
        return {"coords": coords[None], "classes": np.float32([next(self.probabilities)])}


def test_focal_loss_is_the_papers_and_keras(train_model):
    predicted = RANDOM.dirichlet(np.ones(4), 50).astype("float32")
    numbers = RANDOM.integers(0, 4, 50)
    true = np.eye(4, dtype="float32")[numbers]
    values = to_numpy(train_model.focal_loss(true, predicted))
    of_true = predicted[np.arange(50), numbers].astype("float64")
    np.testing.assert_allclose(values, -((1 - of_true) ** 2) * np.log(of_true), rtol=1e-4)
    of_keras = keras.losses.CategoricalFocalCrossentropy(alpha=1, gamma=2, reduction="none")
    np.testing.assert_allclose(values, to_numpy(of_keras(true, predicted)), rtol=1e-4, atol=1e-6)


def test_focal_loss_and_its_gradient_are_finite_at_the_ends(train_model):
    predicted = [[0.0, 1.0], [1.0, 0.0], [1e-30, 1.0], [1 - 1e-7, 1e-7], [0.5, 0.5]]
    loss = check_gradient(train_model.focal_loss, np.float32([[1, 0]] * 5), predicted)
    assert loss[0] > 10 and loss[1] < 1e-5


def test_which_classes_are_told_apart(csvs, train_model):
    text = re.sub(r",\d+$", ",inf", (csvs / "train.csv").read_text(), flags=re.MULTILINE)
    (csvs / "train.csv").write_text(text)  # class_id, which is another program's
    paths, _, names = train_model.read_csv("train.csv")
    assert names == [breed_of(path) for path in paths]
    four = [*names, "a new one"]
    for train_model.CLASSES, given, expected in (
        (2, names, ["Amber_Cat", "2 others"]),
        (3, names, NAMES),
        (None, four, [NAMES[0], "a new one", *NAMES[1:]]),
        (3, four, ["Amber_Cat", "a new one", "2 others"]),
    ):
        classes = train_model.list_classes(given)
        assert classes == expected
        numbers = [classes.index(name if name in classes else "2 others") for name in given]
        one_hot = train_model.to_one_hot(given, classes)
        np.testing.assert_array_equal(one_hot, np.eye(len(classes))[numbers])


def test_classes_that_cannot_be_learned_end_the_training_in_one_line(csvs, train_model):
    (train_model.FOLDER / "model.keras").write_text("an older one")
    text = (csvs / "train.csv").read_text()
    train_model.CLASSES = 4
    assert "CLASSES = 4, but train.csv has 3" in message_of(train_model.main)
    train_model.CLASSES = 3
    for old, new, part in (
        (",class_name", ",name", "KeyError('class_name')"),
        (",Amber_Cat,0", "", "train.csv is no CSV"),
        ("Amber_Cat,", "a cat,", "validation.csv has classes that train.csv has not: Amber_Cat"),
    ):
        (csvs / "train.csv").write_text(text.replace(old, new))
        assert part in message_of(train_model.main)
    assert (train_model.FOLDER / "model.keras").read_text() == "an older one"


def test_the_loss_is_the_weighted_sum_of_both(trained):
    train_model, _ = trained
    paths, boxes, names = train_model.read_csv("validation.csv")
    one_hot = train_model.to_one_hot(names, NAMES)
    windows, true = train_model.PhotoDataset(paths, boxes, one_hot)[0]
    np.testing.assert_array_equal(true["classes"], one_hot)
    model = keras.models.load_model(train_model.FOLDER / "model.keras", compile=False)
    predicted = model.predict(windows)
    box_loss = to_numpy(train_model.box_loss(true["coords"], predicted["coords"])).mean()
    class_loss = to_numpy(train_model.focal_loss(true["classes"], predicted["classes"])).mean()
    assert class_loss > 0.02
    log = np.genfromtxt(train_model.FOLDER / "log.csv", delimiter=",", names=True)
    assert log["val_loss"][-1] == pytest.approx(2 * box_loss + class_loss, rel=1e-3)


@pytest.mark.oldest
def test_the_figures_are_those_of_the_predictions(trained):
    train_model, _ = trained
    rows = read_predictions(train_model.FOLDER)
    for row in rows:
        true, found = (
            np.float32([[float(row[of + name]) for name in ("xmin", "ymin", "xmax", "ymax")]])
            for of in ("true_", "")
        )
        iou = to_numpy(keras.utils.bounding_boxes.compute_iou(true, found, "xyxy")).item()
        assert float(row["iou"]) == pytest.approx(iou, abs=0.01)
        assert row["true_class_name"] == breed_of(row["path"])
        assert row["is_right"] == str(row["class_name"] == row["true_class_name"])
        assert row["class_name"] in NAMES and 1 / 3 < float(row["probability"]) <= 1
    printed = (train_model.FOLDER / "printed.txt").read_text()
    iou, first = (np.mean([float(row[name]) for row in rows]) for name in ("iou", "first_iou"))
    assert f"validation.csv: 6 photos, IoU {iou:.3f} (after the first look {first:.3f})" in printed
    right = np.mean([row["is_right"] == "True" for row in rows])
    assert f"Accuracy: {right:.1%}. Always predicting Amber_Cat: 33.3%." in printed
    pictures = {file.name for file in (train_model.FOLDER / "predictions").iterdir()}
    assert pictures == {row["picture"] for row in rows} and len(pictures) == 6
    (_, _, names), predicted = predict(train_model, "train.csv")
    right = np.array(NAMES)[predicted["classes"].argmax(axis=1)] == names
    assert np.mean(right) > 0.6, "a third of the photos has each class"


def test_each_look_is_closer_and_the_class_is_the_mean_of_all(evaluate_performance):
    photo = Image.new("RGB", (1000, 700), "black")
    photo.paste("white", (613, 402, 650, 431))
    model = SeeingModel([0.6, 0.4, 0.0], [0.1, 0.8, 0.1], [0.2, 0.6, 0.2])
    boxes, agreement, probabilities = evaluate_performance.look(model, photo)
    np.testing.assert_allclose(probabilities, [0.3, 0.6, 0.1], rtol=1e-5)
    corners = [evaluate_performance.to_pixels(box, photo) for box in boxes]
    errors = np.abs(np.array(corners) - (613, 402, 650, 431)).max(axis=1)
    assert len(errors) == 3 and errors[0] > 3 and errors[1:].max() < 1 and agreement > 0.9
    # What is outside of the photo is no box, and never sure, neither elsewhere.
    lost = SeeingModel(*np.eye(3)[[0, 1, 2] * 6])
    boxes, agreement, _ = evaluate_performance.look(lost, Image.new("RGB", (1000, 700)))
    np.testing.assert_array_equal(boxes, [[0.5, 0.5, 1, 1]] * 3)
    assert agreement == 0


def test_what_is_found_elsewhere_has_the_class_of_there(evaluate_performance, monkeypatch):
    def look_closer(model, photo, window):
        is_middle = window.tolist() == [0.5, 0.5, 0.6, 0.6]  # overlaps most with the others
        agreement = 0.3 if window[2] == 1 else 0.8
        return np.tile(window, (3, 1)), agreement, [0, is_middle, not is_middle]

    monkeypatch.setattr(evaluate_performance, "look_closer", look_closer)
    boxes, agreement, probabilities = evaluate_performance.look(None, None)
    assert boxes.tolist() == [[0.5, 0.5, 1, 1]] * 2 + [[0.5, 0.5, 0.6, 0.6]]
    assert probabilities == [0, True, False] and agreement == 0.3


def test_the_names_lie_beside_the_model_and_no_csv_is_needed(
    project, drawn, train_model, evaluate_performance, capsys
):
    train(drawn, "example_2")
    for name in ("model.keras", "classes.json"):
        shutil.copy(drawn / "example_2" / name, train_model.FOLDER)
    train_model.IMAGE_SIZE = 224  # another than the model's
    evaluate_performance.main([str(path) for path in drawn.glob("images/grey_cat_?.jpg")])
    lines = [line for line in capsys.readouterr().out.splitlines() if ".jpg: " in line]
    assert sum(bool(re.search(r"\.jpg: grey_cat \d+%, box \[", line)) for line in lines) > 4
    rows = read_predictions(train_model.FOLDER)
    assert len(rows) == len(lines) == 9 and {row["class_name"] for row in rows} <= {*NAMES}
    assert "iou" not in rows[0] and "true_class_name" not in rows[0]
    for name in ("train", "validation"):  # other photos are in the CSVs now
        text = (drawn / f"{name}.csv").read_text().replace("images/", f"{drawn}/images/")
        (project / f"{name}.csv").write_text(text.replace(",grey_cat,", ",Zebra,"))
    assert "Zebra" in message_of(evaluate_performance.main)
    (train_model.FOLDER / "classes.json").write_text('["Amber_Cat", "grey_cat", "2 others"]')
    evaluate_performance.main()
    rows = read_predictions(train_model.FOLDER)
    assert {row["true_class_name"] for row in rows} == {"Amber_Cat", "2 others"}


def test_a_model_of_another_example_or_other_classes_is_refused(train_model, evaluate_performance):
    create_small_model().save(train_model.FOLDER / "model.keras")
    for content in (None, "", "[", "{}", "3", json.dumps(NAMES)):
        if content is not None:
            (train_model.FOLDER / "classes.json").write_text(content)
        assert "model.keras" in message_of(evaluate_performance.main)


def test_the_report_and_the_matrix_are_those_counted_by_hand(evaluate_performance, capsys):
    confusion = evaluate_performance.FOLDER / "confusion.png"
    names = ["Amber_Cat", "$5", r"$\frac$"]  # no formulas
    for classes, true, predicted, lines in (
        (
            names,
            [0, 0, 0, 0, 0, 1, 1, 1, 2, 2],
            [0, 0, 0, 1, 2, 1, 1, 0, 2, 2],
            ("70.0%. Always predicting Amber_Cat: 50.0%.", "Amber_Cat 0.75 0.60", "$5 0.67 0.67"),
        ),
        (range(60), range(60), np.arange(60) // 2, ["1.7%. Always predicting 0: 1.7%."]),
    ):
        columns = [(classes[i], classes[j], i == j) for i, j in zip(true, predicted)]
        rows = [dict(zip(("true_class_name", "class_name", "is_right"), row)) for row in columns]
        evaluate_performance.print_classes(rows, classes)
        printed = " ".join(capsys.readouterr().out.split())
        assert all(line in printed for line in lines)
        assert confusion.exists() == (classes is names), "60 are too many to look at"
        confusion.unlink(missing_ok=True)


def test_wrong_classes_come_first_on_the_contact_sheet(csvs, evaluate_performance, monkeypatch):
    sheets = []

    def look(model, photo):
        return RANDOM.uniform(0.3, 0.6, (3, 4)), RANDOM.uniform(), np.eye(3)[0]  # all Amber_Cats

    monkeypatch.setattr(evaluate_performance, "load_model", lambda: (None, NAMES))
    monkeypatch.setattr(evaluate_performance, "look", look)
    monkeypatch.setattr(evaluate_performance, "draw_contact_sheet", sheets.append)
    evaluate_performance.main()
    order = [(row["class_name"] == breed_of(row["path"]), row["iou"]) for row in sheets[0]]
    assert order == sorted(order) and len({is_right for is_right, _ in order}) == 2
    rows = read_predictions(evaluate_performance.FOLDER)
    agreements = [float(row["agreement"]) for row in rows]
    assert agreements == sorted({*agreements}) and len(rows) == 6


@pytest.mark.oldest
def test_the_exported_model_answers_as_keras_does(trained, tmp_path):
    check_exports(trained[0], tmp_path)
