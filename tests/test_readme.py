"""Every command and block of the pages runs, in its order, and leaves what the page promises.

The blocks are run in a copy of the scripts with drawn pets and constants for short trainings. A
block that only sets constants is an edit of the scripts. tests/test_recipes.py runs the recipes.
"""

import ast
import contextlib
import csv
import os
import re
import subprocess
import sys
from pathlib import Path

import cv2
import keras
import numpy as np
import pytest
from PIL import Image

import draw_pets
from scripts import edit

REPOSITORY = Path(__file__).resolve().parent.parent
NAMES = ["README.md", *(f"example_{n}/README.md" for n in "123")]
NAMES += ["example_1/recipes/README.md", "tests/README.md"]
PAGES = {name: (REPOSITORY / name).read_text(encoding="utf-8") for name in NAMES}
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
TEXTS = {name: BLOCK.sub("", page) for name, page in PAGES.items()}
BLOCKS = [block for name in NAMES for block in BLOCK.findall(PAGES[name])]
CODE = [code for text in TEXTS.values() for code in re.findall(r"`([^`]+)`", text)]
CODE += [block for _, block in BLOCKS]
SCRIPTS = ["generate_dataset.py"]
SCRIPTS += [
    f"example_{n}/{name}.py" for n in "123" for name in ("train_model", "evaluate_performance")
]

NOT_RUN = {  # command: why
    "make demo": "trains for minutes",
    "make test": "would run this file again",
    "source .venv/bin/activate": "python is the one that runs this file",
    "make results": "trains for hours; tests/test_recipes.py does it for seconds",
}
MODEL = ("model.keras", "log.csv", "curves.png", "batch.jpg")
PICTURES = ("predictions/*.jpg", "predictions.png", "predictions.csv")
LEAVES = {
    "python generate_dataset.py": ("train.csv", "validation.csv"),
    "python example_1/train_model.py": [f"example_1/{name}" for name in MODEL],
    "python example_1/evaluate_performance.py": [f"example_1/{name}" for name in PICTURES],
    "python example_1/recipes/film.py film.mp4": ("example_1/found.mp4", "example_1/found.csv"),
}
SHORT = {
    "EPOCHS": 1,
    "IMAGE_SIZE": 96,
    "WINDOWS_PER_EPOCH": 16,
    "WEIGHTS": "random.weights.h5",  # with a file the first layers are frozen, which is faster
    "ALPHA": 0.35,
    "WORKERS": 2,
}
FRAMES = 5  # of the film
RECIPES = [file.read_text("utf-8") for file in REPOSITORY.glob("example_*/recipes/*.diff")]


def prepare(folder):
    """Draw pets and photos of one's own, set constants, and let `python` be this Python."""
    draw_pets.draw_dataset(folder, 20)
    draw_pets.draw_dataset(folder / "drawn", 12, seed=1)
    (folder / "my_photos").mkdir()
    for file in (*folder.glob("drawn/images/*"), *folder.glob("drawn/annotations/xmls/*")):
        file.rename(folder / "my_photos" / file.name)
    for name, value in SHORT.items():
        assert sum(edit(folder / script, **{name: value}) for script in SCRIPTS)
    size = SHORT["IMAGE_SIZE"]
    options = {"alpha": SHORT["ALPHA"], "include_top": False, "weights": None}
    backbone = keras.applications.MobileNetV2((size, size, 3), **options)
    backbone.save_weights(folder / SHORT["WEIGHTS"])
    photos = [Image.open(file).resize((120, 90)) for file in sorted(folder.glob("images/*.jpg"))]
    photos[0].save(folder / "photo.jpg")
    (folder / "holiday").mkdir()
    photos[1].save(folder / "holiday" / "beach.jpg")
    film = cv2.VideoWriter(str(folder / "film.mp4"), cv2.VideoWriter_fourcc(*"mp4v"), 5, (120, 90))
    for _ in range(FRAMES):
        film.write(np.asarray(photos[0])[:, :, ::-1])
    film.release()
    (folder / "bin").mkdir()
    python = folder / "bin" / "python"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)


def run_shell(folder, block):
    """Run the lines of a block that can be run, look for what they leave; return their output."""
    printed = ""
    for line in block.splitlines():
        line = line.partition("#")[0].strip()
        if not line or line in NOT_RUN:
            continue
        path = f"{folder / 'bin'}:{os.environ['PATH']}"
        done = subprocess.run(
            ["bash", "-c", line],
            cwd=folder,
            env={**os.environ, "PATH": path},
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, f"{line}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
        for pattern in LEAVES.get(line, ()):
            assert [*folder.glob(pattern)], f"{line} left no {pattern}"
        printed += done.stdout
    return printed


def run_python(folder, block):
    """Edit the scripts that have the constants that a block sets, or run the block."""
    statements = ast.parse(block).body
    if not all(isinstance(statement, ast.Assign) for statement in statements):
        with contextlib.chdir(folder):
            exec(block, {})  # here, where Keras is imported already
        return
    for statement in statements:
        name, value = statement.targets[0].id, ast.literal_eval(statement.value)
        assert sum(edit(folder / script, **{name: value}) for script in SCRIPTS), name
    run_shell(folder, "python generate_dataset.py")


def test_every_block_of_commands_runs(project):
    prepare(project)
    for language, block in BLOCKS:
        assert language in ("sh", "python", "diff"), f"``` needs a language:\n{block}"
        if language == "sh":
            run_shell(project, block)
        elif language == "diff":
            assert any(block in recipe for recipe in RECIPES), f"of no recipe:\n{block}"
        else:
            run_python(project, block)
    rows = (project / "train.csv").read_text()
    assert "my_photos/" in rows and ",cat," in rows and ",dog," in rows
    film = cv2.VideoCapture(str(project / "example_1/found.mp4"))
    assert film.get(cv2.CAP_PROP_FRAME_COUNT) == FRAMES and film.get(cv2.CAP_PROP_FPS) == 5
    with open(project / "example_1/found.csv", newline="") as file:
        found = list(csv.DictReader(file))
    assert [row["frame"] for row in found] == [str(number) for number in range(FRAMES)]
    assert all(float(row["xmin"]) < float(row["xmax"]) <= 120 for row in found)
    edit(project / "example_1/evaluate_performance.py", ELSEWHERE=())
    scripts = ("evaluate_performance.py", "recipes/look_with_litert.py model.tflite")
    printed = [run_shell(project, f"python example_1/{script} photo.jpg") for script in scripts]
    found = [re.findall(r"\d+\.\d+", text)[:5] for text in printed]  # box and agreement
    np.testing.assert_allclose(*np.array(found, float), atol=0.2, err_msg="the same box")
    wrong = {
        "look_with_litert.py film.mp4 photo.jpg": "film.mp4 is no LiteRT model",
        "look_with_litert.py model.tflite film.mp4": "film.mp4 cannot be read",
        "film.py photo.txt": "OpenCV cannot read photo.txt",
    }
    for command, reason in wrong.items():
        command = [sys.executable, *f"example_1/recipes/{command}".split()]
        done = subprocess.run(command, cwd=project, capture_output=True, text=True)
        assert done.returncode == 1 and done.stderr.splitlines()[-1].startswith(reason)
        assert "Traceback" not in done.stderr
    unused = {line for line in (*NOT_RUN, *LEAVES) if line not in "".join(PAGES.values())}
    assert not unused, "not in the pages any more"


def anchors_of(name):
    headings = re.findall(r"^#+ (.*)", TEXTS[name], re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("name", NAMES)
def test_every_link_and_picture_leads_somewhere(name):
    for link in re.findall(r"\]\(([^)]+)\)", TEXTS[name]):
        path, _, anchor = link.partition("#")
        if link.startswith("https://"):
            continue
        target = (REPOSITORY / name).parent / path if path else REPOSITORY / name
        assert target.resolve().stat().st_size < 150_000, link
        if anchor:
            assert anchor in anchors_of(str(target.resolve().relative_to(REPOSITORY))), link


@pytest.mark.parametrize("name", NAMES)
def test_lines_can_be_read_in_a_terminal(name):
    for line in PAGES[name].splitlines():
        assert len(line) <= 120 or "](" in line, line  # but links


def test_every_constant_in_the_pages_exists():
    names = {name for code in CODE for name in re.findall(r"\b[A-Z][A-Z_]+[A-Z]\b", code)}
    names = {name for name in names if not name.startswith(("KERAS_", "MALLOC_", "CAP_"))}
    names -= {
        "BILINEAR",
        "DEFAULT",
        "ONNX",
        "PIL",
        "README",
        "RGB",
        "SGD",
        "WBC",
        "XML",
    }  # libraries', and other words
    text = "".join((REPOSITORY / script).read_text() for script in SCRIPTS)
    missing = {name for name in names if not re.search(rf"^{name} = ", text, re.MULTILINE)}
    assert len(names) >= 20 and not missing
