"""Copy what examples 2 and 3 share with example 1 from there, and leave what they teach.

make copies
"""

import ast
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
DIFFERENT = {  # what has the same name as in example 1 and another text, and why
    "example_2/train_model.py": {
        "EPOCHS": "windows without an object show the objects less",
        "LEARNING_RATE": "two losses pull at one network",
        "read_csv": "all objects of a photo, and photos without one",
        "PhotoDataset": "classes too, and windows without an object",
        "create_model": "two heads",
        "main": "two losses, two metrics",
    },
    "example_2/evaluate_performance.py": {
        "LOOKS": "from several places",
        "look_once": "several windows and two answers",
        "look": "from several places",
        "overlap": "of several boxes",
        "find_objects": "several objects and classes",
        "print_figures": "of the surest box",
        "draw_picture": "several objects and classes",
        "main": "several objects or none, and thresholds",
    },
    "example_3/train_model.py": {
        "PhotoDataset": "a grid instead of a box",
        "draw_batch": "a grid instead of a box",
        "create_model": "a grid instead of a box",
        "main": "another loss, another metric",
    },
    "example_3/evaluate_performance.py": {
        "look_once": "a grid and any number of boxes",
        "look": "a grid and any number of boxes",
        "overlap": "train_model.py has no IoU",
        "find_objects": "a grid and any number of boxes",
        "print_figures": "dice too",
        "draw_picture": "a grid and any number of boxes",
        "main": "several rows a photo",
    },
}


def read_parts(script):
    """Return the lines of a script's constants, functions, classes and `if`s, by name, in order."""
    text = (REPOSITORY / script).read_text(encoding="utf-8")
    lines, parts = text.splitlines(keepends=True), {}
    for node in ast.parse(text).body:
        if isinstance(node, ast.Assign):
            name = ast.unparse(node.targets[0])
        elif isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            name = node.name
        elif isinstance(node, ast.If):
            name = "as a command"
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


if __name__ == "__main__":
    for script_name in DIFFERENT:
        print(f"{script_name}: {'rewritten' if fix(script_name) else 'the same already'}")
