"""A generator that is stopped leaves the files of one run, and the next run cleans up."""

import concurrent.futures
import itertools
import multiprocessing
import os
import random
import re
import runpy
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from draw_pets import draw_dataset

CHANGES = ("os.mkdir", "os.rename", "os.remove", "os.rmdir")
CSVS = ("train.csv", "validation.csv")


def read_pair(project):
    """Return the content of both CSVs."""
    return [(project / name).read_bytes() for name in CSVS]


def run(project, seed):
    """Start the generator with a SEED."""
    set_constants(project, SEED=seed)
    return subprocess.Popen(
        [sys.executable, project / "generate_dataset.py"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def set_constants(project, **constants):
    """Edit constants in the script, as users do."""
    script = project / "generate_dataset.py"
    text = script.read_text()
    for name, value in constants.items():
        text, count = re.subn(rf"^{name} = \S+", f"{name} = {value!r}", text, flags=re.MULTILINE)
        assert count == 1
    script.write_text(text)


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
    (young / "copies").mkdir(parents=True)
    old = pets / "unpacking-abcdefgh"
    (old / "images").mkdir(parents=True)
    for folder in (*leftovers, old, young):
        for path in (*folder.iterdir(), folder):
            os.utime(path, (time.time() - 4000,) * 2)
    (young / "copies" / "00000_00.jpg").touch()
    assert run(pets, seed=0).wait(timeout=120) == 0
    assert read_pair(pets) == pairs[1]
    assert [*pets.glob("generating-*")] == [young]
    assert not old.exists()


def stop(action):
    """Stop this process as a user, a disk or the system does."""
    if action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    raise KeyboardInterrupt if action == "interrupt" else OSError(28, "No space left on device")


def run_to(moment, action, script, connection):
    """Run the script in this process and stop it before the `moment`-th change to the disk.

    Python tells an audit hook what is about to be opened, made, renamed or deleted, whatever
    function does it. Sends whether the moment came, and the message that the script ends with.
    """
    # The copies are made in this process: others take seconds to start.
    executor = SimpleNamespace(map=map, shutdown=lambda cancel_futures: None)
    concurrent.futures.ProcessPoolExecutor = lambda *_: executor
    sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    sys.dont_write_bytecode = True
    moments = itertools.count(1)
    came = []

    def hook(event, arguments):
        writes = event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if (writes or event in CHANGES) and next(moments) == moment:
            came.append(event)
            stop(action)

    sys.addaudithook(hook)
    message = ""
    try:
        runpy.run_path(str(script), run_name="__main__")
    except SystemExit as error:
        message = error.code
    connection.send((bool(came), message))


def run_in_fork(*arguments):
    """Do `run_to` in a fork of a process that has imported what the script needs, and no Keras."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["sklearn.model_selection", "imgaug.augmenters", "tqdm"])
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=run_to, args=(*arguments, sender))
    process.start()
    sender.close()
    process.join(timeout=120)
    if process.exitcode == -signal.SIGKILL:
        return True, ""
    assert process.exitcode == 0
    return receiver.recv()


def read_outputs(project):
    """Return the content of the CSVs and of the augmented copies that exist."""
    files = [project / name for name in CSVS] + [*project.glob("augmented/*")]
    return {file.relative_to(project): file.read_bytes() for file in files if file.exists()}


def write_outputs(project, contents):
    """Put back what `read_outputs` has read, and delete what else runs have left."""
    for folder in [project / "augmented", *project.glob("generating-*")]:
        shutil.rmtree(folder, ignore_errors=True)
    (project / "augmented").mkdir()
    for name in CSVS:
        (project / name).unlink(missing_ok=True)
    for file, content in contents.items():
        (project / file).write_bytes(content)


@pytest.mark.parametrize(
    ("augmentation", "action"),
    [(False, "kill"), (True, "kill"), (True, "fail"), (True, "interrupt")],
)
def test_stop_before_each_change_to_the_disk(project, augmentation, action):
    draw_dataset(project, 6)
    set_constants(project, WORKERS=1, AUGMENTATION_PER_IMAGE=2, AUGMENTED_SIZE=32)
    script, outputs = project / "generate_dataset.py", {}
    for seed in (0, 1):
        set_constants(project, SEED=seed, AUGMENTATION=augmentation)
        assert run_in_fork(0, action, script) == (False, "")
        outputs[seed] = read_outputs(project)
    assert outputs[0] != outputs[1]
    seen = set()
    for moment in itertools.count(1):
        write_outputs(project, outputs[0])
        came, message = run_in_fork(moment, action, script)
        if not came:
            break
        left = read_outputs(project)
        state = next((seed for seed in (0, 1) if left == outputs[seed]), None)
        seen.add(state)
        if action == "kill":  # no mixture: then training stops, for want of validation.csv
            assert state is not None or Path("validation.csv") not in left
            assert run_in_fork(0, action, script) == (False, "")
            assert read_outputs(project) == outputs[1]
        else:
            assert state is not None
            assert state == 1 or not [*project.glob("generating-*")]
            if message:  # none, where making a folder that is there fails
                assert message.startswith("generate_dataset.py: ")
                assert "\n" not in message and message.endswith("both as before, or both new.")
    assert moment > (20 if augmentation else 8)
    assert seen == ({0, 1, None} if action == "kill" else {0, 1})


def test_training_asks_for_the_csv_that_a_kill_has_left_out(csvs, train_model):
    (csvs / "validation.csv").unlink()
    with pytest.raises(SystemExit) as stop:
        train_model.main()
    assert "validation.csv does not exist: run generate_dataset.py" in stop.value.code
    assert not [*csvs.glob("example_1/*.keras")]
