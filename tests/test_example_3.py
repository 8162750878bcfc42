"""Example 3: boxes to grids and back, the dice loss, what evaluation finds and draws."""

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
    return "example_3"


@pytest.fixture
def train_model(train_model):
    """Return the imported copy of train_model.py, with small photos."""
    train_model.IMAGE_SIZE, train_model.CELLS = 96, 12
    return train_model


def grid_of(train_model, *corners):
    """Return the script's grid of a box given as corners."""
    xmin, ymin, xmax, ymax = corners
    box = [(xmin + xmax) / 2, (ymin + ymax) / 2, xmax - xmin, ymax - ymin]
    return to_numpy(train_model.to_grid(np.array([box], "float32")))[0]


# Boxes to grids


@pytest.mark.parametrize(
    ("corners", "rows", "columns"),
    [
        ((0, 0, 96, 96), range(12), range(12)),  # the whole photo
        ((0, 0, 8, 8), [0], [0]),
        ((88, 80, 96, 96), [10, 11], [11]),  # at the edges
        ((16, 32, 40, 48), [4, 5], [2, 3, 4]),
        ((20, 32, 36, 48), [4, 5], [2, 3, 4]),  # half of a cell is enough
        ((20.5, 32, 35.5, 48), [4, 5], [3]),  # less is not
        ((50, 50, 51, 51), [6], [6]),  # one pixel
        ((41, 42, 47, 43), [5], [5]),  # flatter than half a cell
        ((92, 92, 92.5, 96), [11], [11]),
    ],
)
def test_grids_of_boxes_known_by_hand(train_model, corners, rows, columns):
    expected = np.zeros((12, 12))
    expected[np.ix_(list(rows), list(columns))] = 1
    np.testing.assert_array_equal(grid_of(train_model, *corners), expected)


def test_a_cell_is_1_when_half_of_it_is_covered(train_model):
    for _ in range(20):
        x, y = np.sort(RANDOM.integers(0, 96, (2, 2)), axis=1)
        corners = x[0], y[0], x[1] + 1, y[1] + 1
        pixels = np.zeros((96, 96))
        pixels[corners[1] : corners[3], corners[0] : corners[2]] = 1
        covered = pixels.reshape(12, 8, 12, 8).mean(axis=(1, 3))
        enough = min(0.5, covered.max())
        np.testing.assert_array_equal(grid_of(train_model, *corners), covered >= enough)


def test_an_empty_box_covers_nothing(train_model):
    assert grid_of(train_model, 40, 40, 40, 40).sum() == 0


@pytest.mark.parametrize("cells", [3, 6, 12, 24])
def test_a_box_comes_back_as_good_as_the_cells_allow(train_model, evaluate_performance, cells):
    train_model.CELLS, evaluate_performance.MIN_CELLS = cells, 1
    for _ in range(50):
        width, height = RANDOM.uniform(2 * 96 / cells, 96, 2)
        left, top = RANDOM.uniform(0, 96 - width), RANDOM.uniform(0, 96 - height)
        true = np.array([left, top, left + width, top + height])
        grid = grid_of(train_model, *true)
        (found,) = evaluate_performance.find_boxes(grid, (96, 96))
        # A side moves by at most half a cell, or by a little more where a corner is cut off.
        share = 96 / cells / np.array([width, height])
        assert np.abs(found - true).max() <= 96 / cells
        iou = to_numpy(keras.utils.bounding_boxes.compute_iou(true[None], found[None], "xyxy"))
        assert iou.item() >= np.prod(1 - share) / np.prod(1 + share)


# The loss and its parts


def test_dice_and_loss_are_those_of_numpy(train_model):
    boxes = np.array([[30, 30, 40, 20], [60, 50, 30, 60], [48, 48, 5, 5]], "float32")
    guesses = RANDOM.uniform(0.01, 0.99, (3, 12, 12)).astype("float32")
    grids = to_numpy(train_model.to_grid(boxes)).astype("float64")
    dices, losses = [], []
    for grid, guess in zip(grids, guesses.astype("float64")):
        dices.append(2 * (grid * guess).sum() / (grid.sum() + guess.sum()))
        entropy = -np.mean(grid * np.log(guess) + (1 - grid) * np.log(1 - guess))
        losses.append(entropy - np.log(dices[-1]))
    assert np.ptp(dices) > 0.1
    values = to_numpy(train_model.dice_coefficient(boxes, guesses))
    np.testing.assert_allclose(values, dices, rtol=1e-4)
    np.testing.assert_allclose(to_numpy(train_model.loss(boxes, guesses)), losses, rtol=1e-4)


def test_dice_of_a_perfect_and_of_an_empty_grid(train_model):
    boxes = np.array([[30, 30, 40, 20]], "float32")
    grid = to_numpy(train_model.to_grid(boxes))
    assert to_numpy(train_model.dice_coefficient(boxes, grid)).item() == pytest.approx(1)
    assert to_numpy(train_model.dice_coefficient(boxes, 1 - grid)).item() == 0
    assert to_numpy(train_model.loss(boxes, grid)).item() == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("value", [0.0, 1.0, 1e-30, 0.5])
@pytest.mark.parametrize("size", [0.0, 40.0])
def test_the_loss_and_its_gradient_are_finite(train_model, value, size):
    tensorflow = pytest.importorskip("tensorflow")
    guesses = tensorflow.Variable(np.full((1, 12, 12), value, "float32"))
    boxes = tensorflow.constant([[30, 30, size, size]])
    with tensorflow.GradientTape() as tape:
        loss = train_model.loss(boxes, guesses)
    assert np.isfinite(loss.numpy()).all()
    assert np.isfinite(tape.gradient(loss, guesses).numpy()).all()


# The model


@pytest.mark.parametrize("cells", [3, 6, 12, 24])
def test_the_model_answers_with_a_grid(train_model, cells):
    train_model.CELLS = cells
    model = train_model.create_model()
    photos = RANDOM.integers(0, 256, (2, 96, 96, 3)).astype("uint8")
    grids = to_numpy(model(photos))
    assert grids.shape == (2, cells, cells)
    assert grids.min() >= 0 and grids.max() <= 1


@pytest.mark.parametrize("cells", [7, 14, 28, 56])
def test_the_model_is_small(train_model, cells):
    train_model.IMAGE_SIZE, train_model.CELLS, train_model.ALPHA = 224, cells, 1.0
    model = train_model.create_model()
    assert model.output_shape == (None, cells, cells)
    assert model.count_params() <= 1_500_000


@pytest.mark.parametrize("freeze", ["some", "all"])
def test_kept_maps_answer_as_the_photos_do(csvs, train_model, freeze):
    train_model.FREEZE, train_model.AUGMENT = freeze, False
    dataset, kept = (train_model.create_dataset("train.csv") for _ in range(2))
    model = train_model.create_model()
    part = train_model.create_trained_part(model, kept)
    maps = kept[0][0]
    assert isinstance(maps, tuple) and len(maps) > 1
    np.testing.assert_allclose(to_numpy(part(maps)), to_numpy(model(dataset[0][0])), atol=1e-4)


# Grids to boxes


GRID = np.zeros((12, 12), "float32")
GRID[1:4, 2:5] = 0.9  # 9 cells, 8.1
GRID[6:10, 6:9] = 0.6  # 12 cells, 7.2
GRID[4, 5] = 0.95  # touches a corner only: another object, of one cell
GRID[11, 0:2] = 0.4  # too faint


@pytest.mark.parametrize(
    ("threshold", "min_cells", "expected"),
    [
        (0.5, 2, [[2, 1, 5, 4], [6, 6, 9, 10]]),
        (0.5, 1, [[2, 1, 5, 4], [6, 6, 9, 10], [5, 4, 6, 5]]),
        (0.7, 2, [[2, 1, 5, 4]]),
        (0.3, 2, [[2, 1, 5, 4], [6, 6, 9, 10], [0, 11, 2, 12]]),
        (0.97, 1, []),
        (0.5, 13, []),
    ],
)
def test_boxes_of_a_grid_drawn_by_hand(
    train_model, evaluate_performance, threshold, min_cells, expected
):
    evaluate_performance.THRESHOLD, evaluate_performance.MIN_CELLS = threshold, min_cells
    boxes = evaluate_performance.find_boxes(GRID, (240, 120))
    assert boxes.shape == (len(expected), 4)
    np.testing.assert_allclose(boxes, np.reshape(expected, (-1, 4)) * [20, 10, 20, 10])


def test_mirroring_answers_with_the_mean(train_model, evaluate_performance):
    photos = RANDOM.integers(0, 256, (2, 96, 96, 3)).astype("uint8")
    model = train_model.create_model()
    mirrored = to_numpy(model(photos[:, :, ::-1]))[:, :, ::-1]
    expected = (to_numpy(model(photos)) + mirrored) / 2
    mean = to_numpy(evaluate_performance.add_mirror(model)(photos))
    np.testing.assert_allclose(mean, expected, rtol=1e-4)


def test_grid_and_boxes_are_drawn_the_answer_thicker(evaluate_performance):
    photo = Image.new("RGB", (480, 480), "gray")
    boxes = [[80, 40, 200, 160], [240, 240, 360, 400]]
    evaluate_performance.draw_boxes(photo, boxes, GRID, "IoU 0.00", (300, 40, 440, 200))
    pixels = np.asarray(photo).astype(int)

    def thickness(row, first):
        return (pixels[row, first : first + 20] == (255, 0, 0)).all(axis=1).sum()

    assert thickness(100, 75) == 2 * thickness(320, 235) > 0
    assert photo.getpixel((300, 120)) == (0, 255, 0)
    inside, faint, outside = pixels[100, 140], pixels[460, 40], pixels[300, 100]
    assert inside[0] > faint[0] > outside[0] == 128
    assert inside[0] < 200, "the photo cannot be seen any more"


# From the CSVs to pictures


@pytest.mark.usefixtures("short_backbone")
def test_train_and_evaluate_end_to_end(csvs, train_model, evaluate_performance, capsys):
    train_model.EPOCHS, evaluate_performance.MIRROR = 3, False
    train_model.main()
    (file,) = train_model.FOLDER.glob("model-*.keras")
    with open(train_model.FOLDER / "log.csv") as log_file:
        log = list(csv.DictReader(log_file))
    best = max(float(row["val_dice_coefficient"]) for row in log)
    assert file.name == f"model-{best:.2f}.keras"
    capsys.readouterr()

    evaluate_performance.THRESHOLD = 0.3  # after three epochs the grids are faint
    evaluate_performance.main()
    printed = capsys.readouterr().out
    dice = float(re.search(r"Dice: training [\d.]+, validation ([\d.]+)", printed).group(1))
    assert dice == pytest.approx(best, abs=2e-3)
    assert re.search(r"Cells that are right: [\d.]+%, [\d.]+%", printed)
    with open(csvs / "validation.csv") as csv_file:
        rows = list(csv.DictReader(csv_file))
    assert len(list((train_model.FOLDER / "predictions").iterdir())) == len(rows)
    evaluate_performance.IMAGES = "images/grey_*.jpg"
    evaluate_performance.main()
    assert capsys.readouterr().out.count("grey_cat") == 10


def test_what_is_not_found_has_iou_0_and_is_said_so(
    csvs, train_model, evaluate_performance, capsys
):
    model = train_model.create_model()
    model.save(train_model.FOLDER / "model-0.50.keras")
    evaluate_performance.THRESHOLD = 0.999
    evaluate_performance.DEBUG = True
    evaluate_performance.main()
    printed = capsys.readouterr().out
    assert "no object was found: 6" in printed
    assert printed.count("nothing found, no object found") == 6
    line = next(line for line in printed.splitlines() if line.startswith("validation "))
    assert line.split()[1:6] == ["6", "0.000", "0.000", "0.000", "0.000"]


@pytest.mark.parametrize(
    ("constant", "value", "part"),
    [
        ("CELLS", 28, "one of 3, 6, 12, 24 when IMAGE_SIZE = 96"),
        ("CELLS", 12.0, "CELLS"),
        ("THRESHOLD", 1, "THRESHOLD = 1"),
        ("THRESHOLD", "half", "THRESHOLD = 'half'"),
        ("MIN_CELLS", 0, "MIN_CELLS = 0"),
    ],
)
def test_a_wrong_constant_is_named(csvs, train_model, evaluate_performance, constant, value, part):
    module = train_model if hasattr(train_model, constant) else evaluate_performance
    setattr(module, constant, value)
    assert part in message_of(module.main)


def test_a_model_for_another_grid(csvs, train_model, evaluate_performance):
    train_model.create_model().save(train_model.FOLDER / "model-0.50.keras")
    train_model.CELLS = 6
    assert "CELLS is 6" in message_of(evaluate_performance.main)
