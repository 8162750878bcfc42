"""A generator that is killed leaves the old CSVs or the new ones, and the next run cleans up."""

import os
import random
import subprocess
import sys
import time


def read_pair(project):
    """Return the content of both CSVs."""
    return [(project / name).read_bytes() for name in ("train.csv", "validation.csv")]


def run(project, seed):
    """Start the generator with a SEED."""
    script = project / "generate_dataset.py"
    script.write_text(script.read_text().replace(f"\nSEED = {1 - seed}", f"\nSEED = {seed}"))
    return subprocess.Popen(
        [sys.executable, script], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def test_twenty_kills_at_random_moments(pets):
    pairs, seconds = [], []
    for seed in (1, 0):
        start = time.monotonic()
        assert run(pets, seed).wait(timeout=120) == 0
        seconds.append(time.monotonic() - start)
        pairs.append(read_pair(pets))
    assert pairs[0] != pairs[1]
    random.seed(0)
    for kill in range(20):
        process = run(pets, seed=(kill + 1) % 2)
        time.sleep(random.uniform(0.5, 1.1) * min(seconds))  # Python starts in the first half
        process.kill()
        process.wait(timeout=60)
        assert read_pair(pets) in pairs
    leftovers = [*pets.glob("generating-*")]
    young = pets / "generating-abcdefgh"  # of a run that is still at it
    (young / "new").mkdir(parents=True)
    old = pets / "unpacking-abcdefgh"
    (old / "images").mkdir(parents=True)
    for folder in (*leftovers, old, young):
        for path in (*folder.iterdir(), folder):
            os.utime(path, (time.time() - 4000,) * 2)
    (young / "new" / "00000_00.jpg").touch()
    assert run(pets, seed=0).wait(timeout=120) == 0
    assert read_pair(pets) == pairs[1]
    assert [*pets.glob("generating-*")] == [young]
    assert not old.exists()
