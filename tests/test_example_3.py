"""Example 3: boxes to grids and back, the dice loss, what evaluation finds and draws."""

import numpy as np
import pytest
from PIL import Image

from checks import GREEN, RED, check_gradient, message_of, read_pixels
from exports import check_exports
from scripts import create_short_backbone, create_small_model, predict, read_predictions, to_numpy

RANDOM = np.random.default_rng(0)
GRID = np.zeros((12, 12), "float32")
GRID[1:4, 2:5] = 0.9  # 9 cells, 8.1
GRID[6:10, 6:9] = 0.6  # 12 cells, 7.2
GRID[4, 5] = 0.95  # touches a corner only: another object, of one cell
GRID[11, 0:2] = 0.4  # too faint


def count_cells(box):
    """Return which cells of 8 x 8 pixels have their centre in a box of at least a cell."""
    x, y, width, height = box
    width, height = max(width, 8), max(height, 8)
    grid = np.zeros((12, 12))
    for row in range(12):
        for column in range(12):
            is_in_columns = abs(8 * column + 4 - x) <= width / 2
            grid[row, column] = is_in_columns and abs(8 * row + 4 - y) <= height / 2
    return grid


def dice_of(one, other):
    """Return the dice of grids (..., 12, 12)."""
    return 2 * (one * other).sum(axis=(-1, -2)) / (one + other).sum(axis=(-1, -2))


def test_cells_are_1_where_their_centre_is_in_the_box(train_model):
    boxes = RANDOM.uniform((0, 0, 0, 0), (96, 96, 96, 96), (100, 4))
    boxes = np.concatenate([boxes, [[48, 48, 96, 96], [50, 51, 0, 0], [95.9, 0.1, 0.2, 0.2]]])
    grids = train_model.to_grid(boxes.astype("float32"))
    np.testing.assert_array_equal(grids, [count_cells(box) for box in boxes])
    assert grids.sum(axis=(1, 2)).min() == 1 and grids.sum(axis=(1, 2)).max() == 144


def test_dice_and_loss_are_those_of_numpy(train_model):
    grids = train_model.to_grid(np.float32([[30, 30, 40, 20], [60, 50, 30, 60], [48, 48, 5, 5]]))
    guesses = RANDOM.uniform(0.01, 0.99, (3, 12, 12)).astype("float32")
    dices, losses = [], []
    for grid, guess in zip(grids.astype("float64"), guesses.astype("float64")):
        dices.append(dice_of(grid, guess))
        entropy = -np.mean(grid * np.log(guess) + (1 - grid) * np.log(1 - guess))
        losses.append(entropy - np.log(dices[-1]))
    assert np.ptp(dices) > 0.1
    values = to_numpy(train_model.dice_coefficient(grids, guesses))
    np.testing.assert_allclose(values, dices, rtol=1e-4)
    np.testing.assert_allclose(to_numpy(train_model.grid_loss(grids, guesses)), losses, rtol=1e-4)
    np.testing.assert_allclose(to_numpy(train_model.dice_coefficient(grids, grids)), 1, rtol=1e-5)
    np.testing.assert_allclose(to_numpy(train_model.dice_coefficient(grids, 1 - grids)), 0)


def test_the_loss_and_its_gradient_are_finite(train_model):
    grids = np.stack([GRID > 0.5, GRID > 2]).astype("float32")  # the second is empty
    for value in (0.0, 1.0, 1e-30, 0.5):
        check_gradient(train_model.grid_loss, grids, np.full((2, 12, 12), value))


@pytest.mark.parametrize("cells", [3, 6, 12, 24])
def test_a_box_becomes_a_grid_and_a_box_again(train_model, evaluate_performance, cells):
    train_model.CELLS, evaluate_performance.MIN_CELLS = cells, 1
    evaluate_performance.THRESHOLD = 0.5
    train_model.MobileNetV2 = create_short_backbone
    assert train_model.create_model().output_shape == (None, cells, cells)
    for _ in range(30):
        size = RANDOM.uniform(96 / cells, 96, 2)
        box = np.concatenate([RANDOM.uniform(size / 2, 96 - size / 2), size])
        (found,) = evaluate_performance.find_boxes(train_model.to_grid(box[None])[0])
        assert np.abs(found - box).max() <= 1.4 * 96 / cells, "a cell, and the corners of one"


@pytest.mark.parametrize(
    ("threshold", "min_cells", "expected"),
    [
        (0.5, 2, [[2, 1, 5, 4], [6, 6, 9, 10]]),
        (0.5, 1, [[2, 1, 5, 4], [6, 6, 9, 10], [5, 4, 6, 5]]),
        (0.7, 2, [[2, 1, 5, 4]]),
        (0.3, 2, [[2, 1, 5, 4], [6, 6, 9, 10], [0, 11, 2, 12]]),  # joined, but not moved
        (0.97, 1, []),
        (0.5, 13, []),
    ],
)
def test_objects_of_a_grid(train_model, evaluate_performance, threshold, min_cells, expected):
    evaluate_performance.THRESHOLD, evaluate_performance.MIN_CELLS = threshold, min_cells
    boxes = evaluate_performance.find_boxes(GRID)
    assert boxes.shape == (len(expected), 4), "the answer first: the highest sum, not the largest"
    corners = np.concatenate([boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2], 1)
    np.testing.assert_allclose(corners, 8 * np.reshape(expected, (-1, 4)), atol=8 * 0.4)


class SeeingModel:
    """Stands in for the network: the grid is how bright the cells of the window are, 0 to 1."""

    def __init__(self, later=None):
        self.grid, self.later = None, later  # what it says after the first look, if anything

    def predict_on_batch(self, windows):
        if self.grid is None or self.later is None:
            self.grid = windows.reshape(1, 12, 8, 12, 8, 3).mean(axis=(2, 4, 5)) / 255
            return self.grid
        return self.later[None]


def draw_photo(*rectangles):
    """Return a black photo with white rectangles: xmin, ymin, xmax, ymax in pixels."""
    photo = Image.new("RGB", (1200, 600), "black")
    for corners in rectangles:
        photo.paste("white", corners)
    return photo


def test_each_look_at_each_object_is_closer(evaluate_performance):
    truth = (150, 75, 650, 325), (740, 210, 960, 390)  # this one is in the other's window
    photo, model = draw_photo(*truth), SeeingModel()
    first_grid, objects = evaluate_performance.look(model, photo)
    assert first_grid.shape == (12, 12) and len(objects) == 2
    for (boxes, _, window, grid), corners in zip(objects, truth):  # the larger first
        assert len(boxes) == evaluate_performance.LOOKS
        found = [evaluate_performance.to_pixels(box, photo) for box in boxes]
        first, *_, last = np.abs(np.array(found) - corners).max(axis=1)
        assert first > 15 > last
        expected = evaluate_performance.predict_grid(model, photo, window)
        np.testing.assert_array_equal(grid, expected)


@pytest.mark.parametrize("columns", [0, 1])
def test_what_is_not_found_again_keeps_its_box_and_is_doubtful(
    project, evaluate_performance, columns
):
    draw_photo((0, 100, 300, 400)).save(project / "a.png")
    later = np.zeros((12, 12))
    later[4:8, :columns] = 1  # nothing, or another object, beside it and outside of the photo
    evaluate_performance.MIN_CELLS = 1
    found = evaluate_performance.find_objects(SeeingModel(later), [project / "a.png"])
    ((_, (row,), _),) = found
    assert row["xmin"] == 0 and 250 < row["xmax"] < 350 and row["agreement"] == 0


def test_cells_and_boxes_are_drawn_where_they_are(train_model, evaluate_performance):
    photo, names = Image.new("RGB", (480, 240), "grey"), evaluate_performance.CORNERS
    corners = [300, 20, 400, 100], [20, 130, 100, 200], [320, 130, 460, 220]  # the last is true
    first, other, true = (dict(zip(names, box)) for box in corners)
    first |= {"agreement": 0.5, "iou": 0.2} | {f"true_{name}": true[name] for name in names}
    evaluate_performance.draw_picture(photo, [first, other], GRID)
    pixels = np.asarray(photo)

    thick, thin, green = (
        (pixels[row, column - 8 : column + 8] == colour).all(axis=1).sum()  # of vertical lines
        for row, column, colour in ((60, 300, RED), (165, 20, RED), (210, 320, GREEN))
    )
    assert thick > thin > 0 and green > 0, "the prediction for the photo is thicker"
    for (row, column), expected in {
        (90, 220): [166, 90, 90],  # 0.95 * 80 / 255 of red
        (230, 40): [144, 112, 112],  # 0.4
        (230, 240): [128, 128, 128],
    }.items():
        np.testing.assert_allclose(pixels[row, column], expected, atol=2)
    train_model.draw_batch(np.full((1, 96, 96, 3), 128, "uint8"), GRID[None] > 0.5)
    is_green = read_pixels(train_model.FOLDER / "batch.jpg")[:, :96, 1] > 145
    cells = is_green.reshape(12, 8, -1, 8).mean(axis=(1, 3))
    np.testing.assert_array_equal(cells[:, :12] > 0.5, GRID > 0.5)


def test_a_row_of_predictions_is_an_object_or_a_photo_without(
    csvs, evaluate_performance, monkeypatch, capsys
):
    monkeypatch.setattr(evaluate_performance, "load_model", SeeingModel)
    draw_photo((130, 60, 470, 330), (730, 210, 950, 390)).save(csvs / "a.png")
    draw_photo().save(csvs / "b.png")
    evaluate_performance.main([str(csvs / "a.png"), str(csvs / "b.png")])
    printed = capsys.readouterr().out
    assert printed.count("a.png: box [") == 2 and "b.png: nothing found" in printed
    rows = read_predictions(evaluate_performance.FOLDER)
    found = [(row["path"][-5:], row["xmin"] != "") for row in rows]
    assert found == [("b.png", False), ("a.png", True), ("a.png", True)], "the doubtful first"
    assert sum(row["picture"] != "" for row in rows) == 2 and "iou" not in rows[0]
    evaluate_performance.THRESHOLD = 1
    evaluate_performance.main()
    assert "validation.csv: 6 photos, IoU 0.000" in capsys.readouterr().out
    rows = read_predictions(evaluate_performance.FOLDER)
    assert [(row["xmin"], row["iou"]) for row in rows] == [("", "0")] * 6


@pytest.mark.oldest
def test_dice_and_iou_are_those_of_the_first_and_the_last_look(trained):
    train_model, evaluate_performance = trained
    rows = [row for row in read_predictions(train_model.FOLDER) if row["iou"]]  # one a photo
    printed = (train_model.FOLDER / "printed.txt").read_text().partition("validation.csv")[2]
    for name, title in (("iou", "6 photos, IoU"), ("dice", "dice")):
        last, first = (np.mean([float(row[k]) for row in rows]) for k in (name, f"first_{name}"))
        assert f"{title} {last:.3f} (after the first look {first:.3f})" in printed
    (paths, boxes), grids = predict(train_model, "train.csv")
    expected = np.array([count_cells(box * 96) for box in boxes])
    dice = dice_of(grids, expected)
    assert dice.mean() > dice_of(expected.mean(axis=0), expected).mean() + 0.1, "has learnt"
    model = evaluate_performance.load_model()
    found = evaluate_performance.find_objects(model, paths[:8], boxes)
    for (photo, (row, *_), _), box, first_dice in zip(found, boxes, dice):
        assert row["first_dice"] == pytest.approx(first_dice, abs=2e-3)
        for _, _, window, grid in evaluate_performance.look(model, photo)[1][:1]:
            start, side = window[:2] - window[2:] / 2, window[2:]
            box = np.concatenate([(box[:2] - start) / side, box[2:] / side]) * 96
            assert row["dice"] == pytest.approx(dice_of(grid, count_cells(box)), abs=2e-3)


def test_size_and_cells_are_those_of_the_model(train_model, evaluate_performance):
    train_model.MobileNetV2, train_model.CELLS, train_model.IMAGE_SIZE = (
        create_short_backbone,
        8,
        64,
    )
    train_model.create_model().save(train_model.FOLDER / "model.keras")
    train_model.CELLS, train_model.IMAGE_SIZE = 28, 224
    grid, _ = evaluate_performance.look(evaluate_performance.load_model(), draw_photo())
    assert grid.shape == (8, 8) and (train_model.CELLS, train_model.IMAGE_SIZE) == (8, 64)
    create_small_model().save(train_model.FOLDER / "model.keras")  # example 1's
    assert "model.keras" in message_of(evaluate_performance.load_model)


@pytest.mark.oldest
def test_the_exported_model_answers_as_keras_does(trained, tmp_path):
    check_exports(trained[0], tmp_path)
