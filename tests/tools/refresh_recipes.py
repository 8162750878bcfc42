"""Write the diffs of the recipes anew when the scripts around them have changed.

make recipes
"""

import re
import shutil
import subprocess
import tempfile
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]


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
        # One line of context: a constant that a user has edited nearby is in no recipe's way.
        command = ["git", "diff", "--no-index", "--no-prefix", "--unified=1", "a", "b"]
        diff = subprocess.run(command, cwd=folder, capture_output=True, text=True).stdout
    file.write_text(diff, encoding="utf-8")


if __name__ == "__main__":
    for diff_file in sorted(REPOSITORY.glob("example_*/recipes/*.diff")):
        refresh(diff_file)
