"""The README's recipes: edits of the scripts, written as diffs."""

import re
from collections import namedtuple
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
# A recipe has a name, in bold, the script that is edited, in backquotes, and a diff.
PATTERN = re.compile(r"^\*\*(.+?)\*\*.*?`(example_\d/\w+\.py)`.*?^```diff\n(.*?)^```", re.S | re.M)

Recipe = namedtuple("Recipe", "name script edits")


def read_recipes():
    """Return the recipes; `edits` is a list of texts to be replaced and what replaces them."""
    text = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    section = text.partition("\n## Recipes\n")[2].partition("\n## ")[0]
    recipes = []
    for name, script, diff in PATTERN.findall(section):
        edits = []
        for hunk in diff.split("@@\n"):
            lines = hunk.splitlines(keepends=True)
            old = "".join(line[1:] for line in lines if not line.startswith("+"))
            new = "".join(line[1:] for line in lines if not line.startswith("-"))
            edits.append((old, new))
        recipes.append(Recipe(name, script, edits))
    return recipes


def apply(recipe, folder):
    """Edit the script of a recipe in a folder with a copy of the scripts."""
    script = Path(folder, recipe.script)
    text = script.read_text(encoding="utf-8")
    for old, new in recipe.edits:
        if text.count(old) != 1:
            raise ValueError(f"{recipe.name}: {recipe.script} does not have once:\n{old}")
        text = text.replace(old, new)
    script.write_text(text, encoding="utf-8")
