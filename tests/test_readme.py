"""Every command and block in README.md runs, in its order, and leaves what the README promises.

The blocks are run in a copy of the scripts with drawn pets and constants for short trainings. A
block that only sets constants is an edit of the scripts. tests/test_recipes.py runs the diffs.
"""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

from PIL import Image, ImageSequence

import draw_pets
from conftest import edit

REPOSITORY = Path(__file__).resolve().parent.parent
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
TEXT = BLOCK.sub("", README)
CODE = [*re.findall(r"`([^`]+)`", TEXT), *(block for _, block in BLOCK.findall(README))]
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
PICTURES = ("predictions/*.jpg", "predictions.png")
LEAVES = {
    "python generate_dataset.py": ("train.csv", "validation.csv"),
    "python example_1/train_model.py": [f"example_1/{name}" for name in MODEL],
    "python example_1/evaluate_performance.py": [f"example_1/{name}" for name in PICTURES],
}
SHORT = {"EPOCHS": 1, "WEIGHTS": None, "ALPHA": 0.35, "IMAGE_SIZE": 96, "CELLS": 12, "WORKERS": 2}


def prepare(folder):
    """Draw pets and photos of one's own, set constants, and let `python` be this Python."""
    draw_pets.draw_dataset(folder, 20)
    draw_pets.draw_dataset(folder / "drawn", 12, seed=1)
    (folder / "my_photos").mkdir()
    for file in (*folder.glob("drawn/images/*"), *folder.glob("drawn/annotations/xmls/*")):
        file.rename(folder / "my_photos" / file.name)
    for name, value in SHORT.items():
        assert sum(edit(folder / script, **{name: value}) for script in SCRIPTS)
    film = [Image.open(file).resize((120, 90)) for file in sorted(folder.glob("images/*.jpg"))[:3]]
    film[0].save(folder / "film.gif", save_all=True, append_images=film[1:], duration=[40, 80, 120])
    film[0].save(folder / "photo.jpg")
    (folder / "bin").mkdir()
    python = folder / "bin" / "python"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)


def run_shell(folder, block):
    """Run the lines of a block that can be run, and look for what they leave."""
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


def run_python(folder, block):
    """Edit the scripts that have the constants that a block sets, or run the block."""
    statements = ast.parse(block).body
    if not all(isinstance(statement, ast.Assign) for statement in statements):
        (folder / "block.py").write_text(block)
        run_shell(folder, "python block.py")
        return
    for statement in statements:
        name, value = statement.targets[0].id, ast.literal_eval(statement.value)
        assert sum(edit(folder / script, **{name: value}) for script in SCRIPTS), name
    run_shell(folder, "python generate_dataset.py")


def test_every_block_of_commands_runs(project, load_script):
    prepare(project)
    load_script("example_3/train_model").create_model().save(project / "example_3" / "model.keras")
    blocks = BLOCK.findall(README)
    for language, block in blocks:
        assert language in ("sh", "python", "diff"), f"``` needs a language:\n{block}"
        if language == "sh":
            run_shell(project, block)
        if language == "python":
            run_python(project, block)
    rows = (project / "train.csv").read_text()
    assert "my_photos/" in rows and ",cat," in rows and ",dog," in rows
    film, durations = Image.open(project / "found.gif"), []
    for frame in ImageSequence.Iterator(film):
        durations.append(frame.info["duration"])
    assert film.size == (120, 90) and durations == [40, 80, 120]
    unused = {line for line in (*NOT_RUN, *LEAVES) if line not in README}
    assert not unused, "not in the README any more"


def test_every_link_and_picture_leads_somewhere():
    headings = re.findall(r"^#+ (.*)", TEXT, re.MULTILINE)
    anchors = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
    links = re.findall(r"\]\(([^)]+)\)", TEXT)
    assert len(links) >= 10
    for link in links:
        if link.startswith("#"):
            assert link[1:] in anchors, link
        elif not link.startswith("https://"):
            assert (REPOSITORY / link).stat().st_size < 150_000, link


def test_every_constant_in_the_readme_exists():
    names = {name for code in CODE for name in re.findall(r"\b[A-Z][A-Z_]+[A-Z]\b", code)}
    names = {name for name in names if not name.startswith(("KERAS_", "MALLOC_", "TF_", "PROCESS"))}
    names -= {"BILINEAR", "DEFAULT", "FOLDER", "ONNX", "PIL", "RGB", "SGD", "XLA"}  # libraries'
    text = "".join((REPOSITORY / script).read_text() for script in SCRIPTS)
    missing = {name for name in names if not re.search(rf"^{name} = ", text, re.MULTILINE)}
    assert len(names) >= 20 and not missing
