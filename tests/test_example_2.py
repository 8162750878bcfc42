"""Example 2: classes, windows without an object, several objects, and what evaluation says."""

import contextlib
import io
import json
import re

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from checks import GREEN, RED, check_gradient, is_colour, read_pixels
from exports import check_exports
from scripts import make_run, newest_run, predict, read_predictions, to_numpy

RANDOM = np.random.default_rng(0)
NAMES = ["Amber_Cat", "grey_cat", "spotless_beagle"]
COLUMNS = "path,width,height,xmin,ymin,xmax,ymax,class_name,class_id"


def breed_of(path):
    """Return the class of a drawn pet, which its file's name begins with."""
    return re.search(r"([^/]+)_\d+\.jpg$", str(path)).group(1)


def draw_boxes(count, random=RANDOM):
    """Return random boxes (count, 4)."""
    start = random.uniform(0, 0.7, (count, 2))
    return np.concatenate([start, start + random.uniform(0.02, 0.3, (count, 2))], axis=1)


# Training


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


def test_all_objects_of_a_photo_and_photos_without_one_are_read(project, train_model):
    file = project / "train.csv"
    rows = "a.jpg,200,100,20,10,120,60,dog,1\nb.jpg,50,50,,,,,,\na.jpg,200,100,0,0,200,50,cat,0\n"
    file.write_text(f"{COLUMNS}\n{rows}")
    photos = train_model.read_csv(file)
    assert [photo["class_names"] for photo in photos] == [["dog", "cat"], []]
    np.testing.assert_allclose(photos[0]["boxes"], [[0.1, 0.1, 0.6, 0.6], [0, 0, 1, 0.5]])
    assert photos[1]["boxes"].shape == (0, 4) and photos[1]["path"] == project / "b.jpg"
    file.write_text(f"{COLUMNS}\n{rows}a.jpg,200,100,,10,120,60,dog,1")
    with pytest.raises(ValueError, match="could not convert"):
        train_model.read_csv(file)


@pytest.mark.parametrize("boxes", [draw_boxes(1), draw_boxes(8), [[0, 0, 1, 1]], np.empty((0, 4))])
def test_empty_windows_show_little_of_any_object_and_differ(train_model, boxes):
    boxes, windows = np.array(boxes), []
    for _ in range(300):
        window = train_model.draw_empty_window(boxes, RANDOM)
        sides = np.minimum(boxes, window)[:, 2:] - np.maximum(boxes, window)[:, :2]
        areas = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
        assert (sides.clip(0).prod(axis=1) < 0.25 * areas).all()
        assert (window[:2] >= 0).all() and (window <= 1 + 1e-9).all()
        windows.append(window)
    sides = np.array([window[2:] - window[:2] for window in windows])
    assert sides.min() < 0.12 and sides.max() > (0.8 if len(boxes) == 0 else 0.4)
    assert np.ptp(windows, axis=0).min() > 0.35


def test_a_batch_has_all_classes_alike_and_a_share_of_nothing(csvs, train_model, monkeypatch):
    """A class of one photo is seen as often as another; what is nothing has no box to learn."""
    rows = train_model.read_csv(csvs / "train.csv")
    names = [row["class_names"][0] for row in rows]
    rows = [row for row in rows if row["class_names"] != [NAMES[0]]]
    rows.append(train_model.read_csv(csvs / "train.csv")[names.index(NAMES[0])])
    small = [*rows[-1]["boxes"][0][:2], *rows[-1]["boxes"][0][:2] + 0.01]
    rows[-1]["boxes"] = np.array([*rows[-1]["boxes"], small])
    rows[-1]["class_names"] = [NAMES[0], NAMES[1]]
    monkeypatch.setattr(train_model, "augment", lambda picture, box, rng: (picture, box))
    windows, cut = [], train_model.cut_window
    monkeypatch.setattr(train_model, "cut_window", lambda *a: windows.append(a[1]) or cut(*a))
    train_model.WINDOWS_PER_EPOCH = 1600
    training = train_model.PhotoDataset(rows, NAMES, training=True)
    batches = [training[index][1:] for index in range(len(training))]
    classes, coords, of_classes, of_coords = (
        np.concatenate(part) for part in zip(*(keras.tree.flatten(batch) for batch in batches))
    )
    assert (of_classes == 1).all() and classes.shape == (1600, 4)
    is_nothing = classes[:, 3] == 1
    assert abs(is_nothing.mean() - train_model.NOTHING) < 0.03
    np.testing.assert_array_equal(of_coords, ~is_nothing)
    assert not coords[is_nothing].any()
    np.testing.assert_allclose(classes[:, :3].sum(axis=0) / 1600, [0.283] * 3, atol=0.06)
    known = np.concatenate([row["boxes"] for row in rows])
    for box, window in zip(coords[~is_nothing], np.array(windows)[~is_nothing]):
        corners = train_model.window_to_photo(box, window)
        assert np.abs(known - corners).max(axis=1).min() < 1e-5, "the box of an object"
        assert box.min() > -1e-5 and box.max() < 1 + 1e-5


def test_a_class_that_cannot_be_learned_ends_the_training_at_once(csvs, train_model):
    text = (csvs / "train.csv").read_text()
    (csvs / "train.csv").write_text(text.replace("Amber_Cat,", "a cat,"))
    with pytest.raises(AssertionError, match="'Amber_Cat'"):
        train_model.main()


def test_the_target_is_the_largest_object_that_is_wholly_in_the_window(train_model):
    boxes = np.array([[0.1, 0.1, 0.6, 0.6], [0.5, 0.5, 0.8, 0.9], [0.6, 0.6, 0.7, 0.7]])
    row = {"boxes": boxes, "class_names": ["dog", "cat", "fox"]}
    windows = {(0, 0, 1, 1): 0, (0.2, 0.2, 1, 1): 1, (0.55, 0.55, 0.75, 0.75): 2, (0, 0, 0.5, 1): 3}
    for window, number in windows.items():
        box, name = train_model.find_target(row, np.array(window))
        if number == 3:
            assert name is None and not box.any()
        else:
            assert name == row["class_names"][number]
            in_photo = train_model.window_to_photo(box, np.array(window))
            np.testing.assert_allclose(in_photo, boxes[number])


def test_the_loss_is_the_weighted_sum_of_both(trained):
    train_model, run = trained
    rows = train_model.read_csv(run / "validation.csv")
    windows, true, _ = train_model.PhotoDataset(rows, NAMES)[0]
    model = keras.models.load_model(run / "model.keras", compile=False)
    predicted = model.predict(windows)
    box_loss = to_numpy(train_model.box_loss(true["coords"], predicted["coords"])).mean()
    class_loss = to_numpy(train_model.focal_loss(true["classes"], predicted["classes"])).mean()
    assert class_loss > 0.02
    log = np.genfromtxt(run / "log.csv", delimiter=",", names=True)
    assert log["val_loss"][-1] == pytest.approx(2 * box_loss + class_loss, rel=1e-3)


@pytest.mark.usefixtures("eagerly")
def test_a_training_starts_from_a_model_of_ours_though_it_had_other_classes(csvs, train_model):
    text = (csvs / "train.csv").read_text()
    kept = [line for line in text.splitlines() if "beagle" not in line]
    (csvs / "train.csv").write_text("\n".join(kept))
    validation = (csvs / "validation.csv").read_text()
    (csvs / "validation.csv").write_text("\n".join(kept[:3]))
    train_model.EPOCHS, train_model.FROZEN_LAYERS = 1, 0
    train_model.main()
    first = newest_run(csvs / "example_2")
    (csvs / "train.csv").write_text(text)
    (csvs / "validation.csv").write_text(validation)
    train_model.WEIGHTS = f"example_2/runs/{first.name}/model.keras"
    train_model.LEARNING_RATE, train_model.RUNS = 0.0, csvs / "example_2" / "next" / "runs"
    train_model.main()
    second = newest_run(csvs / "example_2" / "next")
    old, new = (
        keras.models.load_model(run / "model.keras", compile=False) for run in (first, second)
    )
    assert (old.output["classes"].shape, new.output["classes"].shape) == ((None, 3), (None, 4))
    for layer, other in zip(old.layers, new.layers, strict=True):
        if layer.name != "classes":
            for one, two in zip(layer.get_weights(), other.get_weights(), strict=True):
                np.testing.assert_array_equal(one, two)


# Evaluation


@pytest.mark.oldest
def test_the_figures_are_those_of_the_predictions(trained):
    train_model, run = trained
    printed = (run / "printed.txt").read_text()
    rows, predicted = predict(train_model, "train.csv")
    numbers = [NAMES.index(row["class_names"][0]) for row in rows]
    right = predicted["classes"][:, :3].argmax(axis=1) == numbers
    assert np.mean(right) > 0.6, "a third of the photos has each class"
    rows = read_predictions(run)
    for row in rows:
        assert row["true_class_name"] == breed_of(row["path"])
        assert row["class_name"] in NAMES and 1 / 3 < float(row["probability"]) <= 1
    iou = np.mean([float(row["iou"]) for row in rows])
    assert len(rows) == 6 and f"validation.csv: 6 photos, IoU {iou:.3f} (of the" in printed
    assert "Always predicting Amber_Cat: 33.3%." in printed


class SeeingModel:
    """Stands in for the network: finds the largest bright spot in each window, or nothing."""

    input_shape = (None, 96, 96, 3)

    def predict_on_batch(self, windows):
        boxes, classes = [], []
        for window in windows:
            is_bright = window.max(axis=2) > 128
            rows, columns = np.nonzero(is_bright)
            is_nothing = len(rows) == 0
            if is_nothing:
                box = (200, 200, 201, 201)  # outside of the photo
            else:
                # Of spots beside each other the left one: up to the first dark column.
                dark = np.flatnonzero(~is_bright[:, columns.min() :].any(axis=0))
                xmax = columns.min() + (dark[0] if len(dark) else 96)
                spot = np.flatnonzero(is_bright[:, columns.min() : xmax].any(axis=1))
                box = (columns.min(), spot[0], xmax, spot[-1] + 1)
            is_red = not is_nothing and window[box[1] : box[3], box[0] : box[2], 1].mean() < 128
            boxes.append(np.float32(box) / 96)
            classes.append(
                [0.02, 0.08, 0.9] if is_nothing else [0.9 * is_red, 0.9 - 0.9 * is_red, 0.1]
            )
        return {"coords": np.stack(boxes), "classes": np.float32(classes)}


def draw_spots(*spots):
    """Return a black photo with rectangles."""
    photo = Image.new("RGB", (1000, 700))
    for colour, corners in spots:
        photo.paste(colour, corners)
    return photo


SPOTS = {(113, 102, 250, 231): "white", (613, 602, 650, 631): "red", (800, 90, 950, 260): "white"}


def test_several_objects_are_found_from_several_places_and_each_look_is_closer(
    evaluate_performance, tmp_path
):
    photo = draw_spots(*((colour, corners) for corners, colour in SPOTS.items()))
    evaluate_performance.STARTS = {0.6: 3}
    starts = evaluate_performance.list_starts(tmp_path)
    assert len(starts) == 10 and starts[0].tolist() == [0, 0, 1, 1]
    np.testing.assert_allclose(starts[1:, 2:] - starts[1:, :2], 0.6)
    assert {tuple(start) for start in starts[1:, :2].round(1)} == {
        (x, y) for x in (0, 0.2, 0.4) for y in (0, 0.2, 0.4)
    }
    boxes, confidences, probabilities = evaluate_performance.look(SeeingModel(), photo, starts)
    found = {tuple(evaluate_performance.to_pixels(box, photo)) for box in boxes[confidences > 0.8]}
    for corners in SPOTS:
        errors = [np.abs(np.subtract(corners, other)).max() for other in found]
        assert min(errors) < 1.5, "at full resolution"
    assert len(found) == 3, "each once"
    names = {tuple(np.round(box, 2)): of.argmax() for box, of in zip(boxes, probabilities)}
    assert names[0.61, 0.86, 0.65, 0.9] == 0 and names[0.11, 0.15, 0.25, 0.33] == 1
    boxes, confidences, _ = evaluate_performance.look(SeeingModel(), draw_spots(), starts[:1])
    np.testing.assert_array_equal(boxes, [[0, 0, 1, 1]])
    np.testing.assert_allclose(confidences, 0.1, rtol=1e-5)


def test_where_photos_show_one_object_only_the_whole_photo_is_the_start(
    csvs, train_model, evaluate_performance
):
    run = make_run(train_model)
    assert len(evaluate_performance.list_starts(run)) == 1
    lines = (run / "train.csv").read_text().splitlines()
    (run / "train.csv").write_text("\n".join(lines + lines[1:4]))
    assert len(evaluate_performance.list_starts(run)) == 10, "three of 24 photos show several"


def test_the_surest_of_boxes_that_overlap_is_kept_as_tensorflow_does(evaluate_performance):
    boxes, confidences = draw_boxes(60), RANDOM.uniform(size=60)
    kept = evaluate_performance.keep_surest(boxes, confidences)
    expected = tf.image.non_max_suppression(boxes, confidences, 60, iou_threshold=0.5)
    assert len(kept) < 60 and kept == expected.numpy().tolist()


def test_thresholds_and_average_precision_are_those_of_coco(evaluate_performance, capsys):
    """From random boxes in photos of none to five objects."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    random = np.random.default_rng(0)  # no IoU is within a rounding of 0.5
    rows, objects, results = [], [], []
    for number in range(1, 41):
        true = draw_boxes(random.integers(0, 6), random)
        near = np.repeat(true, 2, axis=0)
        near += random.normal(0, 0.15, near.shape) * np.tile(near[:, 2:] - near[:, :2], 2)
        boxes = np.concatenate([near, draw_boxes(2, random)])
        confidences = random.permutation(len(boxes)) / len(boxes) + 0.3 / number
        order = np.argsort(-confidences)
        found = [{"confidence": confidence} for confidence in confidences[order]]
        if len(true):
            ious = evaluate_performance.overlap(boxes[order], true)
            evaluate_performance.add_truth(found, ious, ["cat"] * len(true))
        rows += found
        for box in true:
            size = box[2:] - box[:2]
            shape = {"bbox": [*box[:2], *size], "area": size.prod(), "iscrowd": 0}
            objects.append({"id": len(objects) + 1, "image_id": number, "category_id": 1, **shape})
        for box, confidence in zip(boxes, confidences):
            shape = {"bbox": [*box[:2], *box[2:] - box[:2]], "score": confidence}
            results.append({"image_id": number, "category_id": 1, **shape})
    evaluate_performance.print_thresholds(rows, len(objects), [0.95, 0.75, 0.4, 0.2])
    printed = capsys.readouterr().out
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = {"images": [{"id": i} for i in range(1, 41)], "annotations": objects}
        coco.dataset["categories"] = [{"id": 1}]
        coco.createIndex()
        judge = COCOeval(coco, coco.loadRes(results), "bbox")
        judge.params.iouThrs, judge.params.areaRng = np.array([0.5]), [[0, 10]]
        judge.params.areaRngLbl = ["all"]
        judge.evaluate()
        judge.accumulate()
    expected = judge.eval["precision"][0, :, 0, 0, -1].mean()
    said = float(re.search(r"Average precision at IoU 0.5, of any class: (\S+)", printed)[1])
    assert said == pytest.approx(expected, abs=0.001) and 0.2 < expected < 0.9
    images = [image for image in judge.evalImgs if image is not None]
    scores = np.concatenate([image["dtScores"] for image in images])
    is_right = np.concatenate([image["dtMatches"][0] > 0 for image in images])
    lines = re.findall(r">= (\S+) +(\S+)% +(\S+)% +(\S+) +(\S+)%", printed)
    assert len(lines) == 7
    for threshold, recall, precision, f1, empty in np.array(lines, float):
        right, count = is_right[scores >= threshold].sum(), (scores >= threshold).sum()
        expected = [100 * right / len(objects), 100 * right / max(count, 1)]
        np.testing.assert_allclose([recall, precision], expected, atol=0.06)
        assert f1 == pytest.approx(2 * right / (count + len(objects)), abs=0.006)
        assert empty == 100 * np.mean(np.array([0.95, 0.75, 0.4, 0.2]) >= threshold)


def test_none_one_and_several_in_rows_pictures_and_print(
    project, train_model, evaluate_performance, monkeypatch, capsys
):
    """Red where it sees one, green where one is, a row and a word for nothing."""
    lines = [COLUMNS]
    spots = [[*SPOTS.items()], [*SPOTS.items()][:1], [], [*SPOTS.items()]]
    for number, of_photo in enumerate(spots):
        draw_spots(*((colour, box) for box, colour in of_photo)).save(project / f"{number}.jpg")
        for box, colour in of_photo:
            name = "cat" if number == 3 or colour == "red" else "dog"  # wrong ones in 3.jpg
            box = (*box[:3], box[3] + 20 * (number == 1))  # else red covers the green
            lines.append(",".join(map(str, (f"{number}.jpg", 1000, 700, *box, name, 0))))
    lines.append("2.jpg,1000,700,,,,,,")
    for name in ("train.csv", "validation.csv"):
        (project / name).write_text("\n".join(lines))
    run = make_run(train_model)
    (run / "classes.json").write_text(json.dumps(["cat", "dog"]))
    sheets = []
    monkeypatch.setattr(keras.models, "load_model", lambda *_, **__: SeeingModel())
    monkeypatch.setattr(evaluate_performance, "draw_contact_sheet", lambda *a: sheets.append(a[0]))
    evaluate_performance.THRESHOLD = 0.85
    evaluate_performance.main()
    rows, printed = read_predictions(run), capsys.readouterr().out
    assert "validation.csv: 3 photos, IoU 0.9" in printed
    assert re.search(r">= 0.80 +100.0% +100.0% +1.00 +0.0%", printed)
    assert "Average precision at IoU 0.5, of any class: 1.000" in printed
    of_photo = [[row for row in rows if f"/{n}.jpg" in row["path"]] for n in range(4)]
    assert [len(found) for found in of_photo] == [3, 1, 1, 3]
    nothing = of_photo[2][0]
    assert (nothing["class_name"], nothing["xmin"], nothing["iou"]) == ("nothing", "", "")
    assert rows[0] == nothing, "the doubtful ones first"
    for row in of_photo[0]:
        assert row["class_name"] == row["true_class_name"] and float(row["iou"]) > 0.8
    assert sheets[0][0].name == of_photo[3][0]["picture"], "wrong ones first"
    for found, boxes in zip(of_photo, spots):
        pixels = read_pixels(run / "predictions" / found[0]["picture"])
        assert is_colour(pixels, RED).any() == (len(boxes) > 0)
        assert is_colour(pixels, GREEN).any() == (len(boxes) == 1)
        for box, _ in boxes:
            around = pixels[box[1] - 6 : box[3] + 6, box[0] - 6 : box[2] + 6]
            assert is_colour(around, RED).any()
    evaluate_performance.main([str(project / "2.jpg"), str(project / "1.jpg")])
    printed = capsys.readouterr().out
    assert re.search(r"1.jpg: dog 0.90, box \[11[23]", printed)
    assert re.search(r"2.jpg: nothing 0.10, box \[None", printed)


def test_a_training_that_failed_is_told(evaluate_performance, capsys):
    row = {"width": 1000, "height": 500, "xmin": 400.1, "ymin": 100.2, "iou": 0.4}
    rows = [row | {"xmin": 400 + number % 2} for number in range(9)]
    evaluate_performance.print_figures("validation.csv", rows)
    assert "warning: the boxes are all the same" in capsys.readouterr().out
    rows[0]["xmin"] = 300
    evaluate_performance.print_figures("validation.csv", rows)
    assert "warning" not in capsys.readouterr().out


def test_the_matrix_is_that_counted_by_hand(project, evaluate_performance, monkeypatch, capsys):
    names = ["Amber_Cat", "$5", "$frac"]
    true, predicted = [0, 0, 0, 0, 0, 1, 1, 1, 2, 2], [0, 0, 0, 1, 2, 1, 1, 0, 2, 2]
    rows = [{"true_class_name": names[i], "class_name": names[j]} for i, j in zip(true, predicted)]
    plot, matrices = evaluate_performance.ConfusionMatrixDisplay.plot, []

    def remember(display, **options):
        matrices.append(display.confusion_matrix.tolist())
        return plot(display, **options)

    monkeypatch.setattr(evaluate_performance.ConfusionMatrixDisplay, "plot", remember)
    evaluate_performance.print_classes(rows, names, project / "confusion.png")
    assert matrices == [[[3, 1, 1], [1, 2, 0], [0, 0, 2]]], "a row for each true class"
    assert "70.0%. Always predicting Amber_Cat: 50.0%." in capsys.readouterr().out
    with Image.open(project / "confusion.png") as matrix:
        assert len(matrix.convert("RGB").getcolors(10**6)) > 10


@pytest.mark.oldest
def test_the_exported_model_answers_as_keras_does(trained, tmp_path):
    check_exports(*trained, tmp_path)
