"""Example 3: boxes to grids and back, the dice loss, what evaluation finds and draws."""

import keras
import numpy as np
import pytest
from PIL import Image

from checks import GREEN, RED, check_gradient, read_pixels
from exports import check_exports
from scripts import make_run, predict, read_predictions, to_numpy

RANDOM = np.random.default_rng(0)
GRID = np.zeros((12, 12), "float32")
GRID[1:4, 2:5] = 0.9  # 9 cells, 8.1
GRID[6:10, 6:9] = 0.6  # 12 cells, 7.2
GRID[4, 5] = 0.95  # touches a corner only: another object, of one cell
GRID[11, 0:2] = 0.4  # too faint


def count_cells(box):
    """Return which of 12 x 12 cells have their centre in a box of at least a cell."""
    xmin, ymin, xmax, ymax = 12 * np.array(box)
    width, height = max(xmax - xmin, 1), max(ymax - ymin, 1)
    grid = np.zeros((12, 12))
    for row in range(12):
        for column in range(12):
            is_in_columns = abs(column + 0.5 - (xmin + xmax) / 2) <= width / 2
            grid[row, column] = is_in_columns and abs(row + 0.5 - (ymin + ymax) / 2) <= height / 2
    return grid


def dice_of(one, other):
    """Return the dice of grids (..., 12, 12)."""
    return 2 * (one * other).sum(axis=(-1, -2)) / (one + other).sum(axis=(-1, -2))


def test_cells_are_1_where_their_centre_is_in_the_box(train_model):
    start = RANDOM.uniform(-0.2, 0.9, (100, 2))
    boxes = np.concatenate([start, start + RANDOM.uniform(0.01, 0.8, (100, 2))], axis=1)
    inside = boxes[(boxes >= 0).all(axis=1) & (boxes <= 1).all(axis=1)]
    assert len(inside) > 20
    corner = [0.997, 0, 1, 0.002]
    boxes = np.concatenate([inside, [[0, 0, 1, 1], [0.51, 0.52, 0.51, 0.52], corner]])
    grids = train_model.to_grid(boxes.astype("float32"), 12)
    np.testing.assert_array_equal(grids, [count_cells(box) for box in boxes])
    assert grids.sum(axis=(1, 2)).min() == 1 and grids.sum(axis=(1, 2)).max() == 144


def test_dice_and_loss_are_those_of_numpy_and_numbers_for_any_grid(train_model):
    boxes = np.float32([[0.1, 0.2, 0.5, 0.4], [0.5, 0.2, 0.8, 0.8], [0.5, 0.5, 0.55, 0.55]])
    grids = train_model.to_grid(boxes, 12)
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

    grids = np.stack([GRID > 0.5, GRID > 2]).astype("float32")  # the second is empty
    for value in (0.0, 1.0, 1e-30, 0.5):
        check_gradient(train_model.grid_loss, grids, np.full((2, 12, 12), value))


@pytest.mark.parametrize("cells", [3, 6, 12, 24])
def test_a_box_becomes_a_grid_and_a_box_again(train_model, evaluate_performance, cells):
    train_model.CELLS, evaluate_performance.MIN_CELLS = cells, 1
    assert train_model.create_model().output_shape == (None, cells, cells)
    for _ in range(30):
        size = RANDOM.uniform(1 / cells, 1, 2)
        start = RANDOM.uniform(0, 1 - size)
        box = np.concatenate([start, start + size])
        (found,) = evaluate_performance.find_boxes(train_model.to_grid(box[None], cells)[0])
        assert np.abs(found - box).max() <= 0.8 / cells, "half a cell, and the corners of one"


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
def test_objects_of_a_grid(evaluate_performance, threshold, min_cells, expected):
    evaluate_performance.THRESHOLD, evaluate_performance.MIN_CELLS = threshold, min_cells
    boxes = evaluate_performance.find_boxes(GRID)
    assert boxes.shape == (len(expected), 4), "the answer first: the highest sum, not the largest"
    np.testing.assert_allclose(12 * boxes, np.reshape(expected, (-1, 4)), atol=0.4)


class SeeingModel:
    """Stands in for the network: the grid is how bright the cells of the window are, 0 to 1."""

    input_shape = (None, 96, 96, 3)

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
    photo = draw_photo(*truth)
    first_grid, objects = evaluate_performance.look(SeeingModel(), photo)
    assert first_grid.shape == (12, 12) and len(objects) == 2
    for (boxes, agreement), corners in zip(objects, truth):  # the larger first
        found = np.array([evaluate_performance.to_pixels(box, photo) for box in boxes])
        assert len(found) == evaluate_performance.LOOKS
        first, *_, last = np.abs(found - corners).max(axis=1)
        assert first > 15 > last
        of_keras = keras.utils.bounding_boxes.compute_iou(found[-2:-1], found[-1:], "xyxy")
        assert agreement == pytest.approx(to_numpy(of_keras).item(), abs=2e-3)
    evaluate_performance.LOOKS = 1
    for boxes, agreement in evaluate_performance.look(SeeingModel(), photo)[1]:
        assert len(boxes) == 1 and np.isnan(agreement), "no second look that could agree"


@pytest.mark.parametrize("columns", [0, 1])
def test_what_is_not_found_again_keeps_its_box_and_is_doubtful(evaluate_performance, columns):
    later = np.zeros((12, 12))
    later[4:8, :columns] = 1  # nothing, or another object, beside it and outside of the photo
    evaluate_performance.MIN_CELLS = 1
    photo = draw_photo((0, 100, 300, 400))
    _, ((boxes, agreement),) = evaluate_performance.look(SeeingModel(later), photo)
    assert boxes[-1][0] == 0 and 0.2 < boxes[-1][2] < 0.3 and agreement == 0


def test_of_several_objects_the_same_one_is_followed(evaluate_performance):
    later = np.zeros((12, 12))
    later[:, :3] = later[4:8, 5:9] = 1  # the first is larger, the second is in the last box
    photo = draw_photo((300, 150, 600, 450))
    _, ((boxes, agreement),) = evaluate_performance.look(SeeingModel(later), photo)
    corners = evaluate_performance.to_pixels(boxes[1], photo)  # of a window of 450 pixels
    np.testing.assert_allclose(corners, [412.5, 225, 562.5, 375], atol=20)
    assert 0 < agreement < 0.5


def test_cells_and_boxes_are_drawn_where_they_are(project, train_model, evaluate_performance):
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
    windows = np.full((2, 96, 96, 3), 128, "uint8")
    train_model.draw_batch(windows, np.stack([GRID.T, GRID]) > 0.5, project / "batch.jpg")
    is_green = read_pixels(project / "batch.jpg")[..., 1] > 145
    cells = is_green.reshape(12, 8, 24, 8).mean(axis=(1, 3)) > 0.5
    np.testing.assert_array_equal(cells, np.concatenate([GRID.T, GRID], axis=1) > 0.5)


def test_a_row_of_predictions_is_an_object_or_a_photo_without(
    csvs, train_model, evaluate_performance, monkeypatch, capsys
):
    monkeypatch.setattr(keras.models, "load_model", lambda *_, **__: SeeingModel())
    run = make_run(train_model)
    draw_photo((130, 60, 470, 330), (730, 210, 950, 390)).save(csvs / "a.png")
    draw_photo().save(csvs / "b.png")
    evaluate_performance.main([str(csvs / "a.png"), str(csvs / "b.png")])
    printed = capsys.readouterr().out
    assert printed.count("a.png: box [") == 2 and "b.png: nothing found" in printed
    rows = read_predictions(run)
    found = [(row["path"][-5:], row["xmin"] != "") for row in rows]
    assert found == [("b.png", False), ("a.png", True), ("a.png", True)], "the doubtful first"
    assert sum(row["picture"] != "" for row in rows) == 2 and "iou" not in rows[0]
    evaluate_performance.THRESHOLD = 1
    evaluate_performance.main()
    assert "validation.csv: 6 photos, IoU 0.000" in capsys.readouterr().out
    rows = read_predictions(run)
    assert [(row["xmin"], float(row["iou"])) for row in rows] == [("", 0)] * 6


@pytest.mark.oldest
def test_iou_is_of_the_last_look_and_dice_of_the_first(trained):
    train_model, run = trained
    printed = (run / "printed.txt").read_text()
    found = [row for row in read_predictions(run) if row["iou"]]  # one a photo
    last, first, dice = (
        np.mean([float(row[name]) for row in found]) for name in ("iou", "first_iou", "dice")
    )
    for line in (
        f"validation.csv: 6 photos, IoU {last:.3f} (after the first look {first:.3f})",
        f"dice of the first look's grids {dice:.3f}",
    ):
        assert line in printed
    for name, gain in {"train.csv": 0.1, "validation.csv": 0}.items():
        rows, grids = predict(train_model, name)
        expected = np.array([count_cells(row["box"]) for row in rows])
        dices = dice_of(grids, expected)
        assert dices.mean() > dice_of(expected.mean(axis=0), expected).mean() + gain, "has learnt"
    of_paths = {row["path"]: float(row["dice"]) for row in found}
    for row, expected in zip(rows, dices, strict=True):
        assert of_paths[str(row["path"])] == pytest.approx(expected, abs=2e-3)


@pytest.mark.oldest
def test_the_exported_model_answers_as_keras_does(trained, tmp_path):
    check_exports(*trained, tmp_path)
