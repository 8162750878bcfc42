"""The lessons stay short, and what is the same in the three examples is the same text.

make copies    # the same file, run with --fix: copies example 1's text into examples 2 and 3
"""

import ast
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
DIFFERENT = {  # what has the same name as in example 1 and another text, and why
    "example_2/train_model.py": {
        "LEARNING_RATE": "two losses pull at one network",
        "read_csv": "classes too",
        "PhotoDataset": "classes too",
        "create_model": "two heads",
        "main": "two losses, two metrics",
    },
    "example_2/evaluate_performance.py": {
        "load_model": "names of classes too",
        "look_once": "the model has two answers",
        "look": "the model has two answers",
        "find_objects": "classes too",
        "draw_picture": "classes too",
        "main": "classes too",
    },
    "example_3/train_model.py": {
        "PhotoDataset": "a grid instead of a box",
        "draw_batch": "a grid instead of a box",
        "create_model": "a grid instead of a box",
        "main": "another loss, another metric",
    },
    "example_3/evaluate_performance.py": {
        "load_model": "the model answers with a grid",
        "look": "a grid and any number of boxes",
        "overlap": "train_model.py has no IoU",
        "find_objects": "a grid and any number of boxes",
        "print_figures": "dice too",
        "draw_picture": "a grid and any number of boxes",
        "main": "several rows a photo",
    },
}
TRAINING = (
    "TRAIN_CSV VALIDATION_CSV WEIGHTS ALPHA IMAGE_SIZE FROZEN_LAYERS AUGMENT EPOCHS "
    "WINDOWS_PER_EPOCH BATCH_SIZE LEARNING_RATE THREADS INMEMORY KEPT_SIZE RESUME SEED"
)
EVALUATION = "WEIGHTS_FILE IMAGES LOOKS DEBUG"
DESIGN = {  # lines, functions and classes at most, and the constants: these and no others
    "example_1/train_model.py": (450, 24, TRAINING),
    "example_2/train_model.py": (500, 26, f"{TRAINING} CLASSES BOX_WEIGHT CLASS_WEIGHT"),
    "example_3/train_model.py": (445, 24, f"{TRAINING} CELLS"),
    "example_1/evaluate_performance.py": (275, 18, EVALUATION),
    "example_2/evaluate_performance.py": (310, 18, EVALUATION),
    "example_3/evaluate_performance.py": (340, 20, f"{EVALUATION} THRESHOLD MIN_CELLS"),
    "generate_dataset.py": (445, 22, None),
}
FIXED = {
    "ROOT",
    "FOLDER",
    "WHOLE_PHOTO",
    "(RED, GREEN)",
    "CORNERS",
    "TRUE_CORNERS",
}  # not for users


def read_parts(script):
    """Return the lines of a script's constants, functions, classes and `if`s, by name, in order."""
    text = (REPOSITORY / script).read_text(encoding="utf-8")
    lines, parts = text.splitlines(keepends=True), {}
    for node in ast.parse(text).body:
        if isinstance(node, ast.Assign):
            name = ast.unparse(node.targets[0])
        elif isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            name = node.name
        elif isinstance(node, ast.If):  # what is done as a command only: Ctrl-C, main()
            name = f"as a command: {ast.unparse(node.body[0]).split('(')[0][:12]}"
        else:
            continue
        parts[name] = "".join(lines[node.lineno - 1 : node.end_lineno])
    return parts


def read_pair(script):
    """Return the parts of a script and of example 1's script of the same name."""
    return read_parts(script), read_parts(f"example_1/{Path(script).name}")


def fix(script):
    """Rewrite what a script shares with example 1; return whether anything changed."""
    file = REPOSITORY / script
    text = old_text = file.read_text(encoding="utf-8")
    copies, originals = read_pair(script)
    for name, original in originals.items():
        if name in copies and name not in DIFFERENT[script]:
            assert text.count(copies[name]) == 1
            text = text.replace(copies[name], original)
    file.write_text(text, encoding="utf-8")
    return text != old_text


@pytest.mark.parametrize("script", DIFFERENT)
def test_what_has_the_same_name_is_the_same_text_in_the_same_order(script):
    copies, originals = read_pair(script)
    in_both = [name for name in originals if name in copies]
    assert [name for name in copies if name in originals] == in_both
    assert len(in_both) - len(DIFFERENT[script]) >= 8
    for name in in_both:
        if name in DIFFERENT[script]:
            assert copies[name] != originals[name], f"{name} is the same: not into DIFFERENT"
        else:
            assert copies[name] == originals[name], f"{name} in {script}: make copies"


@pytest.mark.parametrize("script", DESIGN)
def test_a_lesson_is_short_and_has_the_constants_of_the_design(script):
    most_lines, most_parts, constants = DESIGN[script]
    lines = (REPOSITORY / script).read_text(encoding="utf-8").splitlines()
    assert len(lines) <= most_lines and max(map(len, lines)) <= 100
    parts = read_parts(script)
    found = [part for part in parts.values() if part.startswith(("def ", "class "))]
    assert len(found) <= most_parts
    names = {name for name in parts if name.isupper()} - FIXED
    if constants:
        assert names == set(constants.split())
        assert all(parts[name].count("\n") == 1 for name in names), "one line each"


if __name__ == "__main__":
    if sys.argv[1:] != ["--fix"]:
        sys.exit(__doc__)
    for script_name in DIFFERENT:
        print(f"{script_name}: {'rewritten' if fix(script_name) else 'the same already'}")
