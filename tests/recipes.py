"""The recipes in the tables of the pages: a constant to set, or a diff for `git apply`.

make recipes    # writes the diffs anew when the scripts around them have changed
"""

import os
import re
import shutil
import subprocess
import tempfile
from collections import namedtuple
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
PAGES = [REPOSITORY / "README.md", *sorted(REPOSITORY.glob("example_*/README.md"))]
# A step is a constant, in backquotes, or a link to a diff.
STEP = re.compile(r"`([A-Z_]+ = [^`]+)`|\[[^]]+\]\((?:example_\d/)?(recipes/\w+\.diff)\)")

Run = namedtuple("Run", "example name")  # name: its steps ("EPOCHS = 45, recipes/adam.diff")


def read_row(line, page):
    """Return the run that is named in the first cell of a table's row of a page, or None.

    In README.md "example 1, `EPOCHS = 45`"; in an example's page just "default" or one step.
    """
    cell = line.removeprefix("| ").partition(" |")[0]
    first, *others = re.split(", (?=[`[])", cell)
    example = page.parent.name if page in PAGES[1:] else None
    if re.fullmatch(r"example \d", first):
        example = first.replace(" ", "_")
    elif first != "default":
        others.insert(0, first)
    steps = [STEP.fullmatch(step) for step in others]
    if not line.startswith("| ") or example is None or not all(steps):
        return None
    return Run(example, ", ".join(step[1] or step[2] for step in steps) or "default")


def read_runs():
    """Return the runs that the tables of the pages name, each once."""
    rows = [read_row(line, page) for page in PAGES for line in page.read_text("utf-8").splitlines()]
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


def refresh(file):
    """Write a diff anew for the scripts as they are now; say where `patch` had to guess."""
    parts = re.split(r"^(?=diff --git)", file.read_text(encoding="utf-8"), flags=re.MULTILINE)
    with tempfile.TemporaryDirectory(prefix="recipes-") as folder:
        for part in parts[1:]:  # one for each script
            script = re.search(r"^\+\+\+ b/(.*)", part, re.MULTILINE)[1]
            for copy in (Path(folder, side, script) for side in "ab"):
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(REPOSITORY / script, copy)
            # What is removed, or stands around it, has the constants of now.
            text = copy.read_text(encoding="utf-8")
            for name, value in re.findall(r"^([A-Z_]+)( = .*)", text, re.MULTILINE):
                old = re.compile(rf"(?<=^[- ]){name} = .*", re.MULTILINE)
                part = old.sub(lambda _, now=f"{name}{value}": now, part)
            command = ["patch", "--strip=1", "--fuzz=3", "--no-backup-if-mismatch"]
            options = {"cwd": Path(folder, "b"), "capture_output": True, "text": True}
            patched = subprocess.run(command, input=part, **options)
            if patched.returncode != 0 or "fuzz" in patched.stdout:
                print(f"Look at {file}, and mend it where hunks failed:\n{patched.stdout}")
            if patched.returncode != 0:
                return  # stays as it is
        command = ["git", "diff", "--no-index", "--no-prefix", "a", "b"]
        diff = subprocess.run(command, cwd=folder, capture_output=True, text=True).stdout
    file.write_text(diff, encoding="utf-8")


if __name__ == "__main__":
    for diff_file in sorted(REPOSITORY.glob("example_*/recipes/*.diff")):
        refresh(diff_file)
