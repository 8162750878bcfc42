"""A generator that is stopped at any moment leaves whole files, and no copies with other boxes."""

import concurrent.futures
import contextlib
import itertools
import multiprocessing
import os
import re
import runpy
import shutil
import signal
import sys
from types import SimpleNamespace

import pytest

from draw_pets import draw_dataset

CHANGES = ("os.mkdir", "os.rename", "os.remove", "os.rmdir")


def run_to(moment, action, script, connection):
    """Run the script in this process and stop it before the `moment`-th change to the disk.

    Python tells an audit hook what is about to be opened, made, renamed or deleted, whatever
    function does it. Sends whether the moment came, and the message that the script ends with.
    """
    executor = contextlib.nullcontext(SimpleNamespace(map=map))  # other processes start slowly
    concurrent.futures.ProcessPoolExecutor = lambda *_: executor
    sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    sys.dont_write_bytecode = True
    moments, came = itertools.count(1), []

    def hook(event, arguments):
        writes = event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if (writes or event in CHANGES) and next(moments) == moment:
            came.append(event)
            if action == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            raise KeyboardInterrupt if action == "interrupt" else OSError(28, "No space left")

    sys.addaudithook(hook)
    message = ""
    try:
        runpy.run_path(str(script), run_name="__main__")
    except SystemExit as error:
        message = error.code
    connection.send((bool(came), message))


def run(*arguments):
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


def edit(script, **constants):
    """Write constants into a script. The one in conftest.py would bring Keras to each process."""
    text = script.read_text()
    for name, value in constants.items():
        text = re.sub(rf"^{name} = .*", f"{name} = {value!r}", text, flags=re.MULTILINE)
    script.write_text(text)


def read_outputs(project):
    """Return the bytes of train.csv, of validation.csv and of each copy."""
    copies = {copy: copy.read_bytes() for copy in project.glob("augmented/*")}
    return (project / "train.csv").read_bytes(), (project / "validation.csv").read_bytes(), copies


def write_outputs(project, train, validation, copies):
    """Put back what `read_outputs` has read."""
    shutil.rmtree(project / "augmented", ignore_errors=True)
    (project / "augmented").mkdir()
    contents = {project / "train.csv": train, project / "validation.csv": validation} | copies
    for file, content in contents.items():
        file.write_bytes(content)


@pytest.mark.parametrize("action", ["kill", "fail", "interrupt"])
def test_stop_before_each_change_to_the_disk(project, action):
    draw_dataset(project, 6)
    script, runs = project / "generate_dataset.py", []
    edit(script, WORKERS=1, AUGMENTATION=True, AUGMENTATION_PER_IMAGE=2, AUGMENTED_SIZE=32)
    for seed in (0, 1):
        edit(script, SEED=seed)
        assert run(0, action, script) == (False, "")
        runs.append(read_outputs(project))
    old, new = runs
    seen = []
    for moment in itertools.count(1):
        write_outputs(project, *old)
        came, message = run(moment, action, script)
        train, validation, copies = read_outputs(project)
        if not came:
            break
        seen.append((train, validation, copies))
        assert train in (old[0], new[0])
        assert validation in (old[1], new[1])
        # No CSV has the copies of the other one: they have the same names and other boxes.
        assert not copies or copies == (old if train == old[0] else new)[2]
        if action != "kill" and seen[-1] != new:
            assert message.startswith("generate_dataset.py: ")
            assert message.endswith(". No CSV is half written.")
            assert not [*project.glob("generating-*")]
    assert (train, validation, copies) == new, "what a kill has left is in the way"
    assert moment > 12
    assert seen[0] == old and new in seen
