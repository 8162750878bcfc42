"""A generator that is killed at any moment leaves whole files, and no copies with other boxes."""

import itertools
import multiprocessing
import shutil
import signal

from draw_pets import draw_dataset
from kills import run_to
from scripts import edit


def run(moment, script, seed):
    """Do `run_to` in a fork of a process that has imported the libraries; return its exit code."""
    edit(script, SEED=seed)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["sklearn.model_selection", "imgaug.augmenters", "tqdm"])
    process = context.Process(target=run_to, args=(moment, script))
    process.start()
    process.join(timeout=120)
    return process.exitcode


def read_outputs(project):
    """Return the bytes of train.csv, of validation.csv and of each copy."""
    copies = {copy: copy.read_bytes() for copy in project.glob("augmented/*")}
    train = project / "train.csv"
    train = train.read_bytes() if train.exists() else None
    return train, (project / "validation.csv").read_bytes(), copies


def test_a_kill_before_each_change_to_the_disk(project):
    draw_dataset(project, 6)
    script, runs = project / "generate_dataset.py", []
    edit(script, AUGMENTATION=True, AUGMENTATION_PER_IMAGE=2)
    for seed in (0, 1):
        assert run(0, script, seed) == 0
        runs.append(read_outputs(project))
        shutil.rmtree(project / "augmented")
    (old, new), seen = runs, []
    for moment in itertools.count(1):
        shutil.rmtree(project / "augmented", ignore_errors=True)
        (project / "train.csv").write_bytes(old[0])
        (project / "validation.csv").write_bytes(old[1])
        exit_code = run(moment, script, seed=1)
        train, validation, copies = read_outputs(project)
        if exit_code == 0:  # the moment did not come
            break
        assert exit_code == -signal.SIGKILL
        seen.append((train, validation, copies))
        assert train in (old[0], new[0], None)
        assert validation in (old[1], new[1])
        # No CSV has the copies of another one: they have the same names and other boxes.
        assert not copies or train is None or (train, copies) == (new[0], new[2])
    assert (train, validation, copies) == new, "what a kill has left is in the way"
    assert moment > 10 and seen[0] == (*old[:2], {})
