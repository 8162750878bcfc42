"""Example 3: boxes to grids and back, the dice loss, what evaluation finds and draws."""

import keras
import numpy as np
import pytest
from PIL import Image

from conftest import create_short_backbone, predict, to_numpy
from exports import check_exports
from test_example_1 import GREEN, RED, check_gradient, is_colour, read_pixels

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
        dices.append(2 * (grid * guess).sum() / (grid.sum() + guess.sum()))
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
        assert np.abs(found - box).max() <= 96 / cells + 1e-9


@pytest.mark.parametrize(
    ("threshold", "min_cells", "expected"),
    [
        (0.5, 2, [[2, 1, 5, 4], [6, 6, 9, 10]]),
        (0.5, 1, [[2, 1, 5, 4], [6, 6, 9, 10], [5, 4, 6, 5]]),
        (0.7, 2, [[2, 1, 5, 4]]),
        (0.3, 2, [[2, 1, 6, 5], [6, 6, 9, 10], [0, 11, 2, 12]]),  # the corner is above 0.3
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


@pytest.mark.parametrize("probability", [0.1, 0.25, 0.4, 0.49])
def test_an_edge_is_where_the_probability_crosses_the_threshold(evaluate_performance, probability):
    evaluate_performance.THRESHOLD = 0.5
    grid = np.zeros((12, 12), "float32")
    grid[4:8, 4:8], grid[4:8, 8] = 1, probability
    ((x, _, width, _),) = evaluate_performance.find_boxes(grid)
    edge = 7.5 + np.interp(-0.5, [-1, -probability], [0, 1])  # between two cells' centres
    assert abs((x + width / 2) / 8 - edge) <= 0.1 + 1e-6  # a fifth of a cell is a step


def test_cells_and_boxes_are_drawn_where_they_are(
    project, train_model, evaluate_performance, capsys
):
    Image.new("RGB", (480, 240), "grey").save(project / "photo.png")
    paths, truth = [project / "photo.png"], np.array([[80, 48, 24, 40]])
    evaluate_performance.IMAGES = "photo.png"  # prints the boxes of all objects
    evaluate_performance.THRESHOLD = 0.5
    (picture,) = evaluate_performance.draw_pictures(paths, GRID[None], [""], truth)
    printed = "photo.png: boxes [[80.0, 20.0, 200.0, 80.0], [256.0, 128.0, 344.0, 192.0]]"
    assert printed in capsys.readouterr().out
    pixels = read_pixels(picture)

    def thickness(row, column):  # of a vertical red line
        return is_colour(pixels[row, column - 8 : column + 8], RED).sum()

    assert thickness(50, 2 * 40) > thickness(160, 256) > 0, "the answer's line is thicker"
    assert is_colour(pixels[100, 338:343], GREEN).any()
    assert pixels[70, 160].tolist() == pytest.approx([164, 92, 92], abs=9)  # 0.9 * 80 / 255 of red
    assert pixels[230, 40].tolist() == pytest.approx([144, 112, 112], abs=9)  # 0.4
    assert pixels[230, 240].tolist() == pytest.approx([128, 128, 128], abs=9)
    train_model.draw_batch(np.full((1, 96, 96, 3), 128, "uint8"), GRID[None] > 0.5)
    is_green = read_pixels(train_model.FOLDER / "batch.jpg")[:, :96, 1] > 145
    cells = is_green.reshape(12, 8, -1, 8).mean(axis=(1, 3))
    np.testing.assert_array_equal(cells[:, :12] > 0.5, GRID > 0.5)


def test_dice_and_iou_are_those_of_the_models_answers(trained, capsys):
    train_model, evaluate_performance = trained
    printed = (train_model.FOLDER / "printed.txt").read_text()
    for name in ("train.csv", "validation.csv"):
        (_, boxes), grids = predict(train_model, name)
        expected = np.array([count_cells(box) for box in boxes])
        dice = 2 * (grids * expected).sum((1, 2)) / (grids + expected).sum((1, 2))
        found = [evaluate_performance.find_boxes(grid) for grid in grids]
        nothing = sum(len(boxes_of_one) == 0 for boxes_of_one in found)
        assert f"dice {dice.mean():.3f}, nothing in {nothing} photos" in printed
        answers = np.array([np.concatenate([x, np.zeros((1, 4))])[0] for x in found], "float32")
        pairs = keras.utils.bounding_boxes.compute_iou(boxes, answers, "center_xywh")
        assert f"{name}: {len(boxes)} photos, IoU {np.diag(to_numpy(pairs)).mean():.3f}" in printed
        if name == "train.csv":
            constant = expected.mean(axis=0)
            of_mean = 2 * (constant * expected).sum((1, 2)) / (constant + expected).sum((1, 2))
            assert dice.mean() > of_mean.mean() + 0.1
    evaluate_performance.THRESHOLD = 1.0
    evaluate_performance.evaluate(evaluate_performance.load_model(), "validation.csv")
    printed = capsys.readouterr().out
    assert "IoU 0.000, median 0.000" in printed and "nothing in 6 photos" in printed


def test_the_exported_model_answers_as_keras_does(trained, tmp_path):
    check_exports(trained[0], tmp_path)
