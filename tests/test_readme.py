"""Every command in README.md runs, in its order, and leaves what the README promises.

The blocks are run in a copy of the scripts with drawn pets for photos, and with constants that make
a training a matter of seconds. A block of Python that binds names which a script binds, constants
or imports, is an edit of that script. A command that cannot be run here goes into NOT_RUN.
"""

import ast
import os
import re
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from PIL import Image

import draw_pets
import draw_readme

REPOSITORY = Path(__file__).resolve().parent.parent
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"^ *```(\w*)\n(.*?)^ *```$", re.DOTALL | re.MULTILINE)
TEXT = BLOCK.sub("", README)
CODE = [*re.findall(r"`([^`]+)`", TEXT), *(block for _, block in BLOCK.findall(README))]
SCRIPTS = ["generate_dataset.py", *sorted(REPOSITORY.glob("example_*/*.py"))]
SCRIPTS = [str(script).removeprefix(f"{REPOSITORY}/") for script in SCRIPTS]

PROGRAMS = {"python", "cd"}  # what a line may start with; all else needs a decision
NOT_RUN = {  # command: why
    "make demo": "trains for minutes",
    "make test": "would run this file again",
    "make results": "trains for hours",
    "source .venv/bin/activate": "python is the one that runs this file",
    "pip install tensorboard": "make has installed it",
    "tensorboard --logdir example_1/tensorboard": "serves until it is stopped",
    **dict.fromkeys(
        (
            "KERAS_BACKEND=torch python example_1/train_model.py",
            "KERAS_BACKEND=torch python example_1/evaluate_performance.py",
        ),
        "make test has TensorFlow only: tests/test_backends.py does it",
    ),
    **dict.fromkeys(
        (
            "export KERAS_BACKEND=jax KERAS_DISTRIBUTION_JOB_ADDRESSES=10.0.0.1:1234,10.0.0.2:1234",
            "export KERAS_DISTRIBUTION_NUM_PROCESSES=2",
            "KERAS_DISTRIBUTION_PROCESS_ID=0 python example_1/train_model.py",
            "KERAS_DISTRIBUTION_PROCESS_ID=1 python example_1/train_model.py",
        ),
        "two machines: tests/test_distribute.py does it with two processes",
    ),
    ".venv/bin/python tests/benchmark.py FOLDER": "goes on to 20,000 photos",
}
MODEL, PICTURES = (
    ("model-*.keras", "log.csv", "curves.png"),
    ("predictions/*.jpg", "predictions.png"),
)
LEAVES = {  # command: the files that it makes
    "python generate_dataset.py": ("train.csv", "validation.csv"),
    **{f"python example_{n}/train_model.py": [f"example_{n}/{f}" for f in MODEL] for n in "123"},
    **{
        f"python example_{n}/evaluate_performance.py": [f"example_{n}/{f}" for f in PICTURES]
        for n in "123"
    },
}
SHORT = """
EPOCHS = 1
WEIGHTS = None
FREEZE = "none"
ALPHA = 0.35
IMAGE_SIZE = 96
CELLS = 12
MIRROR = False
WORKERS = 2
from eagerly import keras
"""
# For one epoch of two steps it takes TensorFlow four times as long to trace the steps into a graph.
EAGERLY = """
import keras
if keras.backend.backend() == "tensorflow":
    import tensorflow
    tensorflow.config.run_functions_eagerly(True)
"""


def statements(code):
    """Return the lines, as a slice, of each constant and import of a script, by the bound name."""
    found = {}
    for node in ast.parse(code).body:
        lines = slice(node.lineno - 1, node.end_lineno)
        if isinstance(node, ast.Assign):
            found.update({ast.unparse(target): lines for target in node.targets})
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            found.update({alias.asname or alias.name: lines for alias in node.names})
    return found


def edit(script, code):
    """Replace the statements of a script by those of `code` that bind the same names.

    Returns: whether the script binds them all. If not, it stays as it is.
    """
    text = script.read_text(encoding="utf-8")
    old, new = statements(text), statements(code)
    if not new or not new.keys() <= old.keys():
        return False
    lines = text.splitlines()
    for name, part in new.items():
        assert old[name].stop == old[name].start + 1, f"{name} in {script} has several lines"
        lines[old[name]] = code.splitlines()[part]
    script.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return True


def prepare(folder):
    """Draw pets, set constants, and let `python` be the one that runs this file."""
    draw_pets.draw_dataset(folder, 20)
    draw_pets.draw_dataset(folder / "drawn", 12, seed=1)  # own photos: XMLs beside them
    (folder / "my_photos").mkdir()
    for file in (*folder.glob("drawn/images/*"), *folder.glob("drawn/annotations/xmls/*")):
        file.rename(folder / "my_photos" / file.name)
    for script in SCRIPTS:
        for line in SHORT.split("\n"):
            edit(folder / script, line)
    (folder / "bin").mkdir()
    (folder / "bin" / "eagerly.py").write_text(EAGERLY)
    python = folder / "bin" / "python"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)


def run_shell(folder, block):
    """Run the lines of a block that can be run, and look for what they leave."""
    lines = block.replace("\\\n", " ").splitlines()
    lines = [line.partition("#")[0].strip() for line in lines]
    for line in filter(None, lines):
        program = re.sub(r"^(\w+=\S* +)*", "", line).split(" ")[0]
        assert line in NOT_RUN or program in PROGRAMS, f"{line!r}: NOT_RUN or PROGRAMS?"
    lines = [line for line in lines if line and line not in NOT_RUN]
    if not lines:
        return
    path = f"{folder / 'bin'}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(folder / "bin")}
    start = time.time() - 1  # files' times can be a little coarser than the clock
    command = ["bash", "-e", "-c", "\n".join(lines)]
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300
    )
    output = f"{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    assert done.returncode == 0, f"exit code {done.returncode}:\n{block}\n{output}"
    for line in lines:
        for pattern in LEAVES.get(line, ()):
            files = [file for file in folder.glob(pattern) if file.stat().st_mtime > start]
            assert files, f"{line} left no {pattern}"


def run_python(folder, block):
    """Edit the scripts that bind all names of a block, if it does nothing else, or run it."""
    names = statements(block).keys()
    if "Backbone" in names:
        exec(block, {})  # it can be imported; tests/test_recipe.py trains with other backbones
        for n in "123":
            assert names <= statements((folder / f"example_{n}/train_model.py").read_text()).keys()
        return
    kinds = {type(node) for node in ast.parse(block).body}
    is_edit = kinds <= {ast.Assign, ast.Import, ast.ImportFrom}
    edited = [script for script in SCRIPTS if is_edit and edit(folder / script, block)]
    if not edited:
        (folder / "bin" / "block").write_text(block)
        run_shell(folder, "python - < bin/block")


def test_every_block_of_commands_runs(project):
    prepare(project)
    blocks = BLOCK.findall(README)
    assert len(blocks) >= 8
    for language, block in blocks:
        assert language in ("sh", "python"), f"``` needs a language, sh or python:\n{block}"
        (run_shell if language == "sh" else run_python)(project, textwrap.dedent(block))
    rows = (project / "train.csv").read_text()
    assert "my_photos/" in rows and ",cat," in rows and ",dog," in rows
    assert [*project.glob("example_1/tensorboard/*/photos/*")], "TENSORBOARD = True was not set"
    unused = {line for line in (*NOT_RUN, *LEAVES) if not re.search(f"^ *{line}", README, re.M)}
    assert not unused, "not in the README any more"


def test_a_command_that_nobody_has_decided_about_fails(tmp_path):
    with pytest.raises(AssertionError, match="curl"):
        run_shell(tmp_path, "curl example.com\n")
    with pytest.raises(AssertionError, match="exit code 3"):
        run_shell(tmp_path, "cd .\npython -c 'raise SystemExit(3)'\n")


def test_every_target_of_make_exists():
    targets = {target for code in CODE for target in re.findall(r"\bmake ([a-z-]+)", code)}
    assert len(targets) >= 5
    for target in sorted(targets):
        done = subprocess.run(
            ["make", "-n", target], cwd=REPOSITORY, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr


def test_every_link_and_picture_leads_somewhere():
    headings = re.findall(r"^#+ (.*)", TEXT, re.MULTILINE)
    anchors = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
    links = re.findall(r"\]\(([^)]+)\)", TEXT)
    assert len(links) >= 10
    for link in links:
        if link.startswith("#"):
            assert link[1:] in anchors, link
        elif not link.startswith("https://"):
            assert (REPOSITORY / link).is_file(), link
            assert (REPOSITORY / link).stat().st_size < 100_000, link


def test_every_name_in_code_exists():
    names = {name for code in CODE for name in re.findall(r"\b[A-Z][A-Z_]+\b", code)}
    names = {name for name in names if not name.startswith("KERAS_")}  # Keras's own
    names -= {"BILINEAR", "DEFAULT", "PIL", "RGB"}  # Pillow's and TensorFlow's
    assert len(names) >= 30
    constants = {n for script in SCRIPTS for n in statements((REPOSITORY / script).read_text())}
    assert names <= constants, names - constants
    scripts = {name for code in CODE for name in re.findall(r"\S*\w\.py\b", code)}
    assert len(scripts) >= 8
    for script in scripts:
        places = ("", "example_1/")  # train_model.py alone is that of any example
        assert any((REPOSITORY / place / script).is_file() for place in places), script


def test_the_pictures_show_what_the_scripts_do(tmp_path):
    for draw, name in (
        (draw_readme.draw_networks, "example_1/networks.png"),
        (draw_readme.draw_grid, "example_3/grid.jpg"),
    ):
        drawn = tmp_path / Path(name).name
        draw(drawn)
        old, new = read_comment(REPOSITORY / name), read_comment(drawn)
        assert "28" in new and old == new, "python tests/draw_readme.py"
    parameters = re.search(r"[\d.]+ million parameters", README).group()
    assert parameters in read_comment(tmp_path / "networks.png")


def read_comment(file):
    """Return the words in a picture."""
    with Image.open(file) as picture:
        comment = picture.info["comment"]
    return comment if isinstance(comment, str) else comment.decode()


def test_votes_are_drawn(csvs, train_model, tmp_path):
    train_model.HEAD = "vote"
    draw_readme.draw_votes(train_model, train_model.create_model(), tmp_path / "votes.jpg")
    words = read_comment(tmp_path / "votes.jpg").split("; ")
    assert "IoU 0." in " ".join(words)
    percents = [int(word) for word in words if word.isdigit()]
    assert len(percents) == 36 and 80 < sum(percents) < 120
