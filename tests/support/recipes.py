"""The recipes in the tables of the pages: a constant to set, or a diff for `git apply`."""

import os
import re
import subprocess
from collections import namedtuple
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
PAGES = [REPOSITORY / "README.md", *sorted(REPOSITORY.glob("example_*/**/README.md"))]
# A step is a constant, in backquotes, or a link to a diff.
STEP = re.compile(r"`([A-Z_]+ = [^`]+)`|\[[^]]+\]\((?:.*/)?(\w+\.diff)\)")

Run = namedtuple("Run", "example name")  # name: its steps ("EPOCHS = 45, recipes/adam.diff")


def read_row(line, page):
    """Return the run that is named in the first cell of a table's row of a page, or None.

    In README.md "example 1, `EPOCHS = 45`"; in an example's page just "default" or one step.
    """
    cell = line.removeprefix("| ").partition(" |")[0]
    first, *others = re.split(", (?=[`[])", cell)
    example = page.relative_to(REPOSITORY).parts[0] if page in PAGES[1:] else None
    if re.fullmatch(r"example \d", first):
        example = first.replace(" ", "_")
    elif first != "default":
        others.insert(0, first)
    steps = [STEP.fullmatch(step) for step in others]
    if not line.startswith("| ") or example is None or not all(steps):
        return None
    names = [step[1] or f"recipes/{step[2]}" for step in steps]
    return Run(example, ", ".join(names) or "default")


def read_runs(columns=2):
    """Return the runs that the pages' tables of at least so many columns name, each once."""
    lines = [(line, page) for page in PAGES for line in page.read_text("utf-8").splitlines()]
    rows = [read_row(line, page) for line, page in lines if line.count("|") > columns]
    return [*dict.fromkeys(run for run in rows if run is not None)]


def apply(run, folder, *options):
    """Edit the copies of an example's scripts in a folder; git takes the options."""
    # In a folder of another repository `git apply` would do nothing, and say nothing.
    environment = {**os.environ, "GIT_CEILING_DIRECTORIES": str(Path(folder).resolve().parent)}
    for step in run.name.split(", "):
        if step.endswith(".diff"):
            command = ["git", "apply", *options, REPOSITORY / run.example / step]
            subprocess.run(command, cwd=folder, env=environment, check=True)
        elif step != "default":
            set_constant(Path(folder, run.example), step)


def set_constant(folder, line):
    """Write a constant into the one of an example's scripts that has it."""
    pattern, count = re.compile(rf"^{line.partition(' = ')[0]} = .*", re.MULTILINE), 0
    for script in (folder / "train_model.py", folder / "evaluate_performance.py"):
        text, replaced = pattern.subn(lambda _: line, script.read_text(encoding="utf-8"))
        script.write_text(text, encoding="utf-8")
        count += replaced
    if count != 1:
        raise ValueError(f"{folder.name} has not one line of this constant, but {count}: {line}")
