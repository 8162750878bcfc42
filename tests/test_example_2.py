"""Example 2: the focal loss, the classes and their names, what evaluation says of them."""

import re

import keras
import numpy as np
from PIL import Image

from conftest import message_of, predict, to_numpy
from exports import check_exports
from test_example_1 import check_gradient

RANDOM = np.random.default_rng(0)
NAMES = ["Amber_Cat", "grey_cat", "spotless_beagle"]


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


def test_the_last_class_is_all_others(csvs, train_model, evaluate_performance):
    (csvs / "train.csv").write_text((csvs / "train.csv").read_text().replace(",2\n", ",2.0\n"))
    more = [*NAMES, "no class"]  # than the CSV has
    for train_model.CLASSES, names in ((2, ["Amber_Cat", "all others"]), (3, NAMES), (4, more)):
        assert evaluate_performance.list_classes() == names
        paths, _, classes = train_model.read_csv("train.csv")
        assert classes.shape == (24, train_model.CLASSES) and (classes.sum(axis=1) == 1).all()
        for path, number in zip(paths, classes.argmax(axis=1)):
            breed = path.name.rpartition("_")[0]
            assert names[number] == (breed if breed in names else "all others")


def test_a_class_that_is_missing_or_negative(csvs, train_model, evaluate_performance):
    text = (csvs / "train.csv").read_text()
    (csvs / "train.csv").write_text(text.replace(",class_name", ",name"))
    assert "KeyError('class_name')" in message_of(evaluate_performance.list_classes)
    (csvs / "train.csv").write_text(text.replace(",class_id", ",class"))
    assert "KeyError('class_id')" in message_of(train_model.main)
    lines = text.splitlines()
    lines[2] = lines[2].rpartition(",")[0] + ",-1"
    (csvs / "train.csv").write_text("\n".join(lines))
    assert "line 3" in message_of(train_model.main)


def test_the_loss_is_the_weighted_sum_of_both(trained):
    train_model, _ = trained
    log = np.genfromtxt(train_model.FOLDER / "log.csv", delimiter=",", names=True)
    (_, boxes, classes), answers = predict(train_model, "validation.csv")
    box_loss = to_numpy(train_model.box_loss(boxes, answers["coords"])).mean()
    class_loss = to_numpy(train_model.focal_loss(classes, answers["classes"])).mean()
    assert class_loss > 0.02
    assert np.abs(log["val_loss"] - 2 * box_loss - class_loss).min() < 1e-3  # of its epoch


def test_accuracy_and_iou_are_those_of_the_models_answers(trained):
    train_model, _ = trained
    printed = (train_model.FOLDER / "printed.txt").read_text()
    for name in ("train.csv", "validation.csv"):
        (paths, boxes, classes), answers = predict(train_model, name)
        right = np.mean(answers["classes"].argmax(axis=1) == classes.argmax(axis=1))
        assert right > 0.6 or name == "validation.csv", "a third of the photos has each class"
    np.testing.assert_allclose(answers["classes"].sum(axis=1), 1, rtol=1e-5)
    assert f"Accuracy: {right:.1%}. Always answering Amber_Cat: 33.3%." in printed
    pairs = keras.utils.bounding_boxes.compute_iou(boxes, answers["coords"], "center_xywh")
    iou = np.diag(to_numpy(pairs)).mean()
    assert f"validation.csv: 6 photos, IoU {iou:.3f}" in printed
    assert all(re.search(rf"{name} +\d\.\d\d", printed) for name in NAMES), "no precision"
    assert len([*(train_model.FOLDER / "predictions").iterdir()]) == len(paths)


def test_labels_of_photos_without_a_csv(trained, drawn, capsys):
    _, evaluate_performance = trained
    evaluate_performance.IMAGES = "images/grey_cat_?.jpg"
    evaluate_performance.main()
    lines = [line for line in capsys.readouterr().out.splitlines() if ".jpg: " in line]
    assert len(lines) == 9
    assert all(re.search(rf"\.jpg: box .*\] ({'|'.join(NAMES)}) \d+%$", line) for line in lines)
    assert sum("] grey_cat" in line for line in lines) > 4


def test_the_report_and_the_matrix_are_those_counted_by_hand(
    train_model, evaluate_performance, capsys
):
    true, predicted = np.repeat([0, 1, 2], [5, 3, 2]), np.array([0, 0, 0, 1, 2, 1, 1, 0, 2, 2])
    evaluate_performance.print_classes(true, predicted, NAMES)
    printed = capsys.readouterr().out
    assert "Accuracy: 70.0%. Always answering Amber_Cat: 50.0%." in printed
    for row in ("Amber_Cat 0.75 0.60", "grey_cat 0.67 0.67", "spotless_beagle 0.67 1.00"):
        assert row in " ".join(printed.split())
    confusion = train_model.FOLDER / "confusion.png"
    with Image.open(confusion) as opened:
        assert len(opened.convert("RGB").getcolors(10**6)) > 10
    confusion.unlink()
    names = [f"breed {number}" for number in range(60)]
    evaluate_performance.print_classes(np.arange(60), np.arange(60) // 2, names)
    printed = capsys.readouterr().out
    assert "Accuracy: 1.7%. Always answering breed 0: 1.7%." in printed
    assert not confusion.exists(), "too many to look at"


def test_wrong_classes_come_first_on_the_contact_sheet(csvs, train_model, evaluate_performance):
    ious = np.array([0.9, 0.1, 0.5, 0.7, 0.3, 0.6])
    answers = {"coords": np.full((6, 4), 48.0), "classes": np.eye(3)[[0, 1, 2, 0, 1, 2]]}
    dataset = train_model.PhotoDataset(*train_model.read_csv("validation.csv"))
    dataset.classes = np.eye(3)[[1, 1, 2, 0, 2, 2]]  # the first and the fifth are wrong
    evaluate_performance.load_model = lambda: None
    evaluate_performance.evaluate = lambda model, name: (dataset, answers, ious)
    sheets = []
    evaluate_performance.draw_contact_sheet = sheets.append
    evaluate_performance.main()
    assert [int(file.name.partition("_")[0]) for file in sheets[0]] == [4, 0, 1, 2, 5, 3]


def test_the_exported_model_answers_as_keras_does(trained, tmp_path):
    check_exports(trained[0], tmp_path)
