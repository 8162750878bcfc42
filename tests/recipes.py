"""The README's recipes: edits of the scripts, in a table or as diffs."""

import re
from collections import namedtuple
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
TABLE_SCRIPTS = [*(f"example_{n}/train_model.py" for n in "123"), "generate_dataset.py"]
# A row of the table has a name, what stands in a script, and what to write instead, in backquotes.
ROW = re.compile(r"^\| ([^|]+) \| (`[^|]+`) \| (`[^|]+`) \|", re.MULTILINE)
# "(2018)" in a name: part of the recipe of 2018, of all examples or of those that are named.
OF_2018 = re.compile(r"\(2018(?:, example ([\d, ]+))?\)")
CODE = re.compile(r"`([^`]+)`")
# A paragraph has a name, in bold, and the script that is edited, in backquotes, before the diff.
DIFF = re.compile(r"^\*\*([^*]+)\*\*[^*]*?`([\w/]+\.py)`:\n\n```diff\n(.*?)^```", re.S | re.M)

Recipe = namedtuple("Recipe", "name edits")  # edits: of which script, what is replaced, by what


def find_script(code):
    """Return the first script that has a piece of code exactly once."""
    texts = {name: (REPOSITORY / name).read_text(encoding="utf-8") for name in TABLE_SCRIPTS}
    return next(name for name, text in texts.items() if text.count(code) == 1)


def read_recipes():
    """Return the recipes of README.md, those of the table first."""
    text = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    section = text.partition("\n## Recipes\n")[2].partition("\n## ")[0]
    recipes = []
    for name, old_cell, new_cell in ROW.findall(section):
        pairs = zip(CODE.findall(old_cell), CODE.findall(new_cell), strict=True)
        recipes.append(Recipe(name, [(find_script(old), old, new) for old, new in pairs]))
    for name, script, diff in DIFF.findall(section):
        edits = []
        for hunk in diff.split("@@\n"):
            lines = hunk.splitlines(keepends=True)
            old = "".join(line[1:] for line in lines if not line.startswith("+"))
            new = "".join(line[1:] for line in lines if not line.startswith("-"))
            edits.append((script, old, new))
        recipes.append(Recipe(name, edits))
    return recipes + [combine_2018(recipes, example) for example in "123"]


def combine_2018(recipes, example):
    """Return all of 2018's edits of an example as one recipe."""
    edits = []
    for recipe in recipes:
        mark = OF_2018.search(recipe.name)
        if mark and example in (mark.group(1) or "123"):
            script = f"example_{example}/train_model.py"
            edits.extend((script, old, new) for _, old, new in recipe.edits)
    return Recipe(f"example {example} as in 2018", edits)


def example_of(recipe):
    """Return the folder of the example that a recipe is for."""
    return min(script for script, _, _ in recipe.edits).partition("/")[0]


def apply(recipe, folder):
    """Edit the scripts of a recipe in a folder with a copy of them."""
    for name, old, new in recipe.edits:
        script = Path(folder, name)
        text = script.read_text(encoding="utf-8")
        if text.count(old) != 1:
            raise ValueError(f"{recipe.name}: {name} does not have once:\n{old}")
        script.write_text(text.replace(old, new), encoding="utf-8")
