"""Draw the pages' pictures with the scripts that they are about.

PYTHONPATH=tests/support .venv/bin/python tests/tools/draw_pages.py

example_1/networks.png and example_3/grid.jpg need no training: their shapes and cells are those of
the networks and functions in the scripts. Each example's predictions.jpg is the predictions.png
that evaluate_performance.py has left there, as a smaller file.
"""

import numpy as np
import pytest
from keras import layers
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

import draw_pets
from scripts import REPOSITORY, import_script

BLUE, ORANGE, GREY = "#cfe2f8", "#fddcb8", "#404040"
ARROW = {"arrowstyle": "->", "color": GREY}
SIDE, STEP = 0.7, 1.06  # inches: how wide a map is drawn, and from one to the next


def load_train_model(example):
    """Return an example's train_model.py as it stands, but for the weights, as a module."""
    module = import_script(REPOSITORY, f"example_{example}/train_model", pytest.MonkeyPatch())
    module.WEIGHTS = None  # nothing to download; the shapes are the same
    return module


def draw_pet(size):
    """Return a drawn pet, size x size pixels, and its box (1, 4) as the networks learn it."""
    photo, corners = draw_pets.draw_pet(np.random.default_rng(14), "Amber_Cat", 400, 400)
    corners = np.array(corners, "float32") * size / 400
    box = np.concatenate([(corners[:2] + corners[2:]) / 2, corners[2:] - corners[:2]])
    return np.asarray(photo.resize((size, size))), box[None]


def list_maps(train_model, model):
    """Return shape, caption and colour of the maps that the README speaks of."""
    # The narrow maps at the ends of MobileNetV2's blocks.
    ends = ("_project_BN", "_add")
    backbone = [layer for layer in model.layers if layer.name.endswith(ends)]
    maps = []
    for stride in (4, 8, 16, 32):
        size = train_model.IMAGE_SIZE // stride
        of_stride = [layer.output.shape for layer in backbone if layer.output.shape[1] == size]
        maps.append((of_stride[-1][1:], f"stride {stride}", BLUE))
    for layer in model.layers:
        if isinstance(layer, layers.SeparableConv2D):
            maps.append((layer.output.shape[1:], "enlarged, and a\nfiner map beside", ORANGE))
    captions = {"coords": "the box", "cells": "a probability\nper cell"}
    captions["classes"] = "a probability\nper class"
    for name in sorted(model.output_names, reverse=True):
        maps.append((model.get_layer(name).output.shape[1:], captions[name], ORANGE))
    return maps


def draw_networks(file):
    """Draw the networks of the three examples, a row each."""
    figure = Figure(figsize=(9.2, 5), dpi=140, facecolor="white")
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, 9.2), ylim=(0, 5), aspect="equal")
    axes.axis("off")
    for example in (1, 2, 3):
        train_model = load_train_model(example)
        model = train_model.create_model(*([2] if example == 2 else []))  # the number of classes
        size, y = train_model.IMAGE_SIZE, 5.5 - 1.6 * example
        title = f"Example {example}: {model.count_params() / 1e6:.2f} million parameters"
        axes.text(0.2, y + 0.95, title, fontsize=10, weight="bold")
        photo, _ = draw_pet(112)
        axes.imshow(photo, extent=(0.2, 0.2 + SIDE, y, y + SIDE))
        maps = [((size, size, 3), "photo", None), *list_maps(train_model, model)]
        for index, (shape, caption, colour) in enumerate(maps):
            x = 0.2 + index * STEP
            if colour is not None:
                axes.add_patch(Rectangle((x, y), SIDE, SIDE, facecolor=colour, edgecolor=GREY))
            if colour is not None and "class" not in caption:
                ends = (x, y + SIDE / 2), (x - STEP + SIDE, y + SIDE / 2)
                axes.annotate("", *ends, arrowprops=ARROW)
            if "class" in caption or "beside" in caption:  # of the last map, or a skip connection
                sizes = [shape[0] for shape, _, colour in maps if colour == BLUE]
                source = len(sizes) if "class" in caption else sizes.index(shape[0]) + 1
                middles = [0.2 + SIDE / 2 + column * STEP for column in (index, source)]
                ends = [(middle, y + SIDE) for middle in middles]
                curved = {**ARROW, "connectionstyle": "arc3,rad=-0.1"}
                axes.annotate("", *ends, arrowprops=curved)
            if colour is not None and len(shape) > 1:
                ticks = np.linspace(0, SIDE, shape[0] + 1)[1:-1]
                style = {"color": GREY, "linewidth": min(0.5, 4 / shape[0])}
                axes.vlines(x + ticks, y, y + SIDE, **style)
                axes.hlines(y + ticks, x, x + SIDE, **style)
            text = " x ".join(map(str, shape)) + "\n" + caption
            axes.text(x + SIDE / 2, y - 0.05, text, fontsize=8, ha="center", va="top")
    figure.savefig(file)


def draw_grid(file):
    """Draw a photo with its true box, and the grids, fine and coarse, that example 3 learns."""
    train_model = load_train_model(3)
    size = train_model.IMAGE_SIZE
    photo, box = draw_pet(size)
    figure = Figure(figsize=(8.5, 3.1), dpi=120, layout="constrained")
    first, *others = figure.subplots(1, 3)
    first.imshow(photo)
    first.set_title("photo and true box")
    for axes, cells in zip(others, (train_model.CELLS, size // 32)):
        train_model.CELLS = cells
        (grid,) = train_model.to_grid(box)
        cell = size // cells
        red = np.kron(grid, np.ones((cell, cell)))[..., None] * 0.55
        axes.imshow(((1 - red) * photo + red * np.array([224, 32, 32])).astype("uint8"))
        axes.set_title(f"CELLS = {cells}: {grid.sum():.0f} cells are 1")
    corner, width, height = box[0, :2] - box[0, 2:] / 2, box[0, 2], box[0, 3]
    for axes in (first, *others):
        axes.add_patch(Rectangle(corner, width, height, fill=False, edgecolor="lime", linewidth=2))
        axes.axis("off")
    figure.savefig(file, pil_kwargs={"quality": 70})


def main():
    """Draw what needs no training, and shrink the contact sheets that are there."""
    draw_networks(REPOSITORY / "example_1" / "networks.png")
    draw_grid(REPOSITORY / "example_3" / "grid.jpg")
    for file in REPOSITORY.glob("example_*/predictions.png"):
        with Image.open(file) as sheet:
            sheet.convert("RGB").save(file.with_suffix(".jpg"), quality=75, optimize=True)


if __name__ == "__main__":
    main()
