"""Draw the README's pictures, on drawn pets, with the scripts that they are about.

.venv/bin/python tests/draw_readme.py    # trains for most of four minutes: it runs the demo

example_1/networks.png and example_3/grid.jpg need no training: their shapes and cells are those of
the networks and functions in the scripts. example_1/drawn_pets.jpg is the contact sheet of the
demo, example_1/votes.jpg shows how the demo's network votes, and example_1/watching.jpg what
TensorBoard shows of its training.
"""

import importlib.util
from pathlib import Path

import keras
import numpy as np
from keras import layers, ops
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image, PngImagePlugin

import demo
import draw_pets
from test_tensorboard import read_events

REPOSITORY = Path(__file__).resolve().parent.parent
BLUE, ORANGE, RED, GREY = "#cfe2f8", "#fddcb8", "#e02020", "#404040"
SIDE, STEP = 0.7, 1.06  # inches: how wide a map is drawn, and from one to the next
PET = 14  # which drawn pet
SMALL = {"fontsize": 8, "ha": "center", "va": "top", "color": GREY}


def load_train_model(example):
    """Return an example's train_model.py as it stands, but for the weights, as a module."""
    file = REPOSITORY / f"example_{example}" / "train_model.py"
    spec = importlib.util.spec_from_file_location(f"train_model_{example}", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.WEIGHTS, module.FREEZE = None, "none"  # nothing to download; the shapes are the same
    return module


def draw_pet(seed, size):
    """Return a drawn pet, size x size pixels, and its box (1, 4) as the networks learn it."""
    photo, corners = draw_pets.draw_pet(np.random.default_rng(seed), "Amber_Cat", 400, 400)
    corners = np.array(corners, "float32") * size / 400
    box = np.concatenate([(corners[:2] + corners[2:]) / 2, corners[2:] - corners[:2]])
    return np.asarray(photo.resize((size, size))), box[None]


def outline(box, colour, **style):
    """Return a box (4,), centre x, centre y, width and height, to be added to a picture."""
    return Rectangle(box[:2] - box[2:] / 2, *box[2:], fill=False, edgecolor=colour, **style)


class Row:
    """A row of maps, from left to right; x and y are in inches, y is the middle of the maps."""

    def __init__(self, axes, y, title, note):
        """Start a row with its title and, at the end of that line, a note."""
        self.axes, self.y, self.x = axes, y, 0.18
        axes.text(0.1, y + 0.7, title, fontsize=10, weight="bold")
        axes.text(8.4, y + 0.7, note, fontsize=8.5, color=GREY, ha="right")
        for left, words in ((1, "MobileNetV2 without its top"), (5, "head")):
            axes.text(self.x + left * STEP, y + 0.7, words, fontsize=8.5, color=GREY)

    def add(self, shape, words, colour=None, photo=None):
        """Add a map and its cells, or a photo, with its shape and a few words; return its left."""
        x, y = self.x, self.y - SIDE / 2
        if x > SIDE:
            self.arrow((x - STEP + SIDE, self.y), (x, self.y))
        if photo is None:
            self.axes.add_patch(Rectangle((x, y), SIDE, SIDE, facecolor=colour, edgecolor=GREY))
            ticks = np.linspace(0, SIDE, shape[0] + 1)[1:-1]
            lines = [[(tick, 0), (tick, SIDE), (np.nan, 0)] for tick in ticks]
            lines += [[(0, tick), (SIDE, tick), (np.nan, 0)] for tick in ticks]
            lines = np.concatenate(lines) + np.array([x, y])
            self.axes.plot(*lines.T, color=GREY, linewidth=min(0.5, 4 / shape[0]))
        else:
            self.axes.imshow(photo, extent=(x, x + SIDE, y, y + SIDE))
        size = " x ".join(map(str, shape))
        self.axes.text(x + SIDE / 2, y - 0.07, size, **{**SMALL, "color": "black"})
        self.axes.text(x + SIDE / 2, y - 0.24, words, **SMALL)
        self.x += STEP
        return x

    def arrow(self, *points):
        """Draw an arrow through points (x, y)."""
        self.axes.plot(*np.transpose(points[:-1]), color=GREY, linewidth=1)
        style = {"arrowstyle": "->", "color": GREY, "shrinkA": 0, "shrinkB": 0}
        self.axes.annotate("", points[-1], points[-2], arrowprops=style)

    def bridge(self, left, right, height):
        """Draw an arrow from the map at `left` to the one at `right`, over those between."""
        start, end, top = left + SIDE / 2, right + SIDE / 2, self.y + SIDE / 2
        self.arrow((start, top), (start, top + height), (end, top + height), (end, top))


def draw_network(axes, y, example):
    """Draw the network of an example as its train_model.py builds it."""
    train_model = load_train_model(example)
    size, model = train_model.IMAGE_SIZE, train_model.create_model()
    parameters = f"{model.count_params() / 1e6:.2f} million parameters"
    row = Row(axes, y, f"Example {example}", parameters)
    backbone_names = ("block_", "expanded_", "Conv", "out_relu")  # those of MobileNetV2
    maps = [layer for layer in model.layers if layer.name.startswith(backbone_names)]
    head = [layer for layer in model.layers if layer not in maps]
    if example == 3:  # takes the sums at the end of the blocks
        maps = [layer for layer in maps if isinstance(layer, layers.Add)]

    def head_shapes(kind):
        return [layer.output.shape[1:] for layer in head if isinstance(layer, kind)]

    photo, box = draw_pet(PET, 112)
    row.add((size, size, 3), "photo, RGB", photo=photo)
    blue = [
        row.add(train_model.last_map(maps, stride).shape[1:], f"stride {stride}", BLUE)
        for stride in (4, 8, 16, 32)
    ]
    if example == 3:
        for index, shape in enumerate(head_shapes(layers.SeparableConv2D)):
            stride = 16 // 2**index
            x = row.add(shape, f"enlarged, and\nstride {stride} beside", ORANGE)
            row.bridge(blue[2 - index], x, 0.1 + 0.1 * index)
        grid = ops.convert_to_numpy(train_model.to_grid(box * size / 112))[0]
        row.add(model.output_shape[1:], "a probability\nfor each cell", photo=tint(photo, grid))
        return
    x = row.add(*head_shapes(layers.Add), "enlarged, and\nstride 16 added", ORANGE)
    row.bridge(blue[2], x, 0.15)
    cells, numbers = model.get_layer("votes").output.shape[1:]
    side = round(cells**0.5)
    row.add((side, side, numbers), "each cell votes:\na box, a score", ORANGE)
    x = row.add(model.get_layer("coords").output.shape[1:], "numbers: the\nmean vote", photo=photo)
    box = box[0] * SIDE / 112
    box[:2] = x + box[0], y + SIDE / 2 - box[1]
    axes.add_patch(outline(box, RED, linewidth=1.5))
    if example == 2:
        (features,) = head_shapes(layers.GlobalAveragePooling2D)[0]
        (classes,) = model.get_layer("classes").output.shape[1:]
        x, below = blue[3] + SIDE / 2, y - 1.0
        row.arrow((x, y - 0.74), (x, below), (blue[3] + STEP, below))
        row.arrow((blue[3] + 2.5 * STEP, below), (blue[3] + 3 * STEP, below))
        style = {**SMALL, "ha": "left", "va": "center", "color": "black"}
        words = f"{features}: the mean of all cells", f"{classes} probabilities"
        for x, text in zip((blue[3] + STEP, blue[3] + 3 * STEP), words):
            axes.text(x + 0.05, below, text, **style)


def draw_networks(file):
    """Draw the networks of the three examples, a row each."""
    figure = Figure(figsize=(8.5, 5.85), dpi=200, facecolor="white")
    axes = figure.add_axes((0, 0, 1, 1))
    for example, y in ((1, 4.95), (2, 3.2), (3, 0.95)):
        draw_network(axes, y, example)
    axes.set(xlim=(0, 8.5), ylim=(0, 5.85), aspect="equal")
    axes.axis("off")
    save(figure, file)


def save(figure, file):
    """Write a figure into a PNG or a JPEG; the words in it, too, as the file's comment."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    picture = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
    words = [text for axes in figure.axes for text in (axes.title, *axes.texts)]
    words = "; ".join(text.get_text().replace("\n", " ") for text in words if text.get_text())
    if file.suffix == ".png":
        comment = PngImagePlugin.PngInfo()
        comment.add_text("comment", words)
        picture.quantize(200).save(file, optimize=True, pnginfo=comment)  # a third of the bytes
    else:
        picture.save(file, quality=70, comment=words)


def draw_panels(photo, size, titles):
    """Return a figure with a photo, size x size pixels of the network, under each of the titles."""
    figure = Figure(figsize=(8.5, 3.1), dpi=150, facecolor="white", layout="constrained")
    figure.get_layout_engine().set(h_pad=0.08)
    panels = figure.subplots(1, len(titles))
    for axes, title in zip(panels, titles):
        axes.set(xticks=[], yticks=[])
        axes.set_title(title, fontsize=10)
        axes.imshow(photo, extent=(0, size, size, 0))
    return figure, panels


def draw_cells(axes, size, cells):
    """Draw the lines between the cells of a grid."""
    ticks = np.linspace(0, size, cells + 1)
    axes.vlines(ticks, 0, size, "white", linewidth=0.4)
    axes.hlines(ticks, 0, size, "white", linewidth=0.4)


def draw_numbers(axes, size, numbers):
    """Write a whole number into each cell of a grid (cells, cells)."""
    for (row, column), number in np.ndenumerate(numbers):
        x, y = (np.array([column, row]) + 0.5) * size / len(numbers)
        axes.text(x, y, f"{number:.0f}", color="white", fontsize=9, ha="center", va="center")


def draw_grid(file):
    """Draw a photo with its true box, and the grids, fine and coarse, that example 3 learns."""
    train_model = load_train_model(3)
    size = train_model.IMAGE_SIZE
    photo, box = draw_pet(PET, size)
    grids = []
    for cells in (train_model.CELLS, size // 32):
        train_model.CELLS = cells
        grids.append(ops.convert_to_numpy(train_model.to_grid(box))[0])
    titles = [f"CELLS = {len(grid)}: {grid.sum():.0f} cells are 1" for grid in grids]
    figure, panels = draw_panels(photo, size, ["photo and true box", *titles])
    for axes, grid in zip(panels[1:], grids):
        axes.imshow(tint(photo, grid), extent=(0, size, size, 0))
        draw_cells(axes, size, len(grid))
    draw_numbers(panels[2], size, grids[1])
    for axes in panels:
        axes.add_patch(outline(box[0], "lime", linewidth=2))
    save(figure, file)


def draw_votes(train_model, model, file):
    """Draw how the cells of example 1's network vote for a box, where its IoU is the middle one.

    Args:
        train_model: the module, whose validation photos are meant.
        model: the trained network.
        file: where to write the picture.
    """
    dataset = train_model.create_dataset(train_model.VALIDATION_CSV)
    part = keras.Model(model.inputs, [model.output, model.get_layer("votes").output])
    answers, votes = map(ops.convert_to_numpy, part([dataset.photos]))
    ious = ops.convert_to_numpy(train_model.iou(dataset.targets, answers))
    chosen = np.argsort(ious)[len(ious) // 2]
    weights = ops.convert_to_numpy(ops.softmax(votes[chosen, :, 4]))
    size, side = train_model.IMAGE_SIZE, round(len(weights) ** 0.5)
    photo = np.asarray(train_model.load_photo(dataset.paths[chosen], 336))
    last_title = f"weighted mean, true box: IoU {ious[chosen]:.2f}"
    titles = "how much each cell counts, in %", "the box of each cell", last_title
    figure, panels = draw_panels(photo, size, titles)
    grid = weights.reshape(side, side)
    panels[0].imshow(tint(photo, grid / grid.max()), extent=(0, size, size, 0))
    draw_cells(panels[0], size, side)
    draw_numbers(panels[0], size, 100 * grid)
    for box, weight in zip(votes[chosen], weights):
        style = {"linewidth": 1.5, "alpha": weight / weights.max()}
        panels[1].add_patch(outline(box[:4], RED, **style))
    panels[2].add_patch(outline(dataset.targets[chosen], "lime", linewidth=2))
    panels[2].add_patch(outline(answers[chosen], RED, linewidth=2))
    save(figure, file)


def draw_watching(folder, file):
    """Draw the first 6 of the photos that TENSORBOARD wrote, after three of the epochs."""
    _, pictures = read_events(folder)
    epochs = [0, 15, max(pictures)]
    titles = [f"after epoch {epoch + 1}" for epoch in epochs]
    parts = [pictures[epoch][:, :192] for epoch in epochs]  # 3 photos of 96 pixels by 2
    figure = Figure(figsize=(8.5, 4.5), layout="constrained")
    for axes, title, part in zip(figure.subplots(1, 3), titles, parts):
        axes.imshow(part)
        axes.set_title(title, fontsize=10)
        axes.axis("off")
    save(figure, file)


def main():
    """Draw all pictures: first what needs no training, then what the demo's network answers."""
    draw_networks(REPOSITORY / "example_1" / "networks.png")
    draw_grid(REPOSITORY / "example_3" / "grid.jpg")
    demo.main(tensorboard=True)
    import evaluate_performance  # the demo's, in its temporary folder
    import train_model

    evaluate_performance.MIRROR = False
    model = evaluate_performance.load_model()
    draw_votes(train_model, model, REPOSITORY / "example_1" / "votes.jpg")
    draw_watching(train_model.FOLDER, REPOSITORY / "example_1" / "watching.jpg")
    with Image.open(train_model.FOLDER / "predictions.png") as sheet:
        sheet.save(REPOSITORY / "example_1" / "drawn_pets.jpg", quality=60)


def tint(photo, grid):
    """Return a photo (size, size, 3) with a grid (cells, cells) of 0 to 1 laid over it in red."""
    share = 0.55 * np.kron(grid, np.ones([len(photo) // len(grid)] * 2))[..., None]
    return ((1 - share) * photo + share * np.array([224, 32, 32])).astype("uint8")


if __name__ == "__main__":
    main()
