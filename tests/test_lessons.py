"""What is the same in the three examples is the same text, in the same order.

make copies    # the same file, run with --fix: copies example 1's text into examples 2 and 3
"""

import ast
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent

# What has the same name as in example 1 and another text, and why.
DIFFERENT = {
    "example_2/train_model.py": {
        "LEARNING_RATE": "larger steps wipe out the features that tell classes apart",
        "WARM_UP": "the box must not spoil the features before the class needs them",
        "check_constants": "has constants of its own",
        "create_dataset": "a target is a box and a class",
        "create_model": "two heads",
        "loss": "box and class",
        "METRICS": "IoU and accuracy together choose the model",
        "predict_boxes": "the model has two answers",
    },
    "example_2/evaluate_performance.py": {
        "load_model": "the model has two answers",
        "add_mirror": "the model has two answers",
        "draw_boxes": "a class beside each box",
        "draw_pictures": "a class beside each box",
        "predict_csv": "classes too",
        "evaluate_csvs": "classes too",
        "evaluate_images": "classes too",
    },
    "example_3/train_model.py": {
        "IMAGE_SIZE": "a fine grid needs fine maps",
        "EPOCHS": "each cell is told what is right, so it learns sooner; and an epoch is slower",
        "check_constants": "has constants of its own",
        "create_model": "a grid instead of coordinates",
        "loss": "a grid instead of coordinates",
        "METRICS": "a grid instead of coordinates",
        "create_trained_part": "no votes",
        "predict_boxes": "the boxes are in the grid",
    },
    "example_3/evaluate_performance.py": {
        "load_model": "the model answers with a grid",
        "add_mirror": "the model answers with a grid",
        "draw_boxes": "a grid and any number of boxes",
        "draw_pictures": "a grid and any number of boxes",
        "predict_csv": "a grid and any number of boxes",
        "evaluate_csvs": "a grid and any number of boxes",
        "evaluate_images": "a grid and any number of boxes",
        "main": "checks constants of its own",
    },
}


def read_parts(text):
    """Return the lines of each constant, function and class of a script, by name, in order."""
    lines = text.splitlines(keepends=True)
    parts = {}
    for node in ast.parse(text).body:
        if isinstance(node, ast.Assign):
            name = ast.unparse(node.targets[0])
        elif isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            name = node.name
        else:
            continue
        parts[name] = slice(node.lineno - 1, node.end_lineno)
    return {name: "".join(lines[part]) for name, part in parts.items()}


def read_pair(script):
    """Return the parts of a script and of example 1's script of the same name."""
    original = REPOSITORY / "example_1" / Path(script).name
    return read_parts((REPOSITORY / script).read_text()), read_parts(original.read_text())


def fix(script):
    """Rewrite what a script shares with example 1; return whether anything changed."""
    file = REPOSITORY / script
    text = old_text = file.read_text()
    copies, originals = read_pair(script)
    for name, original in originals.items():
        if name in copies and name not in DIFFERENT[script]:
            assert text.count(copies[name]) == 1
            text = text.replace(copies[name], original)
    file.write_text(text)
    return text != old_text


@pytest.mark.parametrize("script", DIFFERENT)
def test_what_has_the_same_name_is_the_same_text(script):
    copies, originals = read_pair(script)
    shared = [name for name in originals if name in copies and name not in DIFFERENT[script]]
    assert len(shared) >= 10
    for name in shared:
        assert copies[name] == originals[name], f"{name} in {script}: make copies"


@pytest.mark.parametrize("script", DIFFERENT)
def test_what_is_listed_as_different_is_different(script):
    copies, originals = read_pair(script)
    for name in DIFFERENT[script]:
        assert copies[name] != originals[name], f"{name} in {script} is the same: not in the list"


@pytest.mark.parametrize("script", DIFFERENT)
def test_the_order_is_the_same(script):
    copies, originals = read_pair(script)
    in_copy = [name for name in copies if name in originals]
    assert in_copy == [name for name in originals if name in copies]


def test_make_copies_repairs_a_drifted_copy(tmp_path, monkeypatch):
    for example in REPOSITORY.glob("example_*"):
        (tmp_path / example.name).mkdir()
        for script in example.glob("*.py"):
            (tmp_path / example.name / script.name).write_text(script.read_text())
    monkeypatch.setattr(sys.modules[__name__], "REPOSITORY", tmp_path)
    script = "example_2/train_model.py"
    expected = (tmp_path / script).read_text()
    drifted = expected.replace("brightness, contrast, saturation =", "brightness, contrast =")
    drifted = drifted.replace("PATIENCE = 100", "PATIENCE = 5")
    (tmp_path / script).write_text(drifted)
    assert fix(script)
    assert (tmp_path / script).read_text() == expected
    assert not fix(script)


if __name__ == "__main__":
    if sys.argv[1:] != ["--fix"]:
        sys.exit(__doc__)
    for name in DIFFERENT:
        print(f"{name}: {'rewritten' if fix(name) else 'the same already'}")
