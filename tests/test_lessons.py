"""The lessons stay short, and what is the same in the three examples is the same text.

tests/tools/copies.py says what may differ, and makes the copies.
"""

import pytest

from copies import DIFFERENT, REPOSITORY, read_pair, read_parts

TRAINING = (
    "TRAIN_CSV VALIDATION_CSV WEIGHTS ALPHA IMAGE_SIZE FROZEN_LAYERS AUGMENT EPOCHS "
    "WINDOWS_PER_EPOCH BATCH_SIZE LEARNING_RATE THREADS INMEMORY KEPT_SIZE RESUME SEED"
)
EVALUATION = "WEIGHTS_FILE IMAGES LOOKS DEBUG"
DESIGN = {  # lines, functions and classes at most, and the constants: these and no others
    "example_1/train_model.py": (460, 24, TRAINING),
    "example_2/train_model.py": (515, 26, f"{TRAINING} CLASSES BOX_WEIGHT CLASS_WEIGHT"),
    "example_3/train_model.py": (460, 24, f"{TRAINING} CELLS"),
    "example_1/evaluate_performance.py": (315, 21, EVALUATION),
    "example_2/evaluate_performance.py": (345, 21, EVALUATION),
    "example_3/evaluate_performance.py": (355, 21, f"{EVALUATION} THRESHOLD MIN_CELLS"),
    "generate_dataset.py": (475, 23, None),
}
FIXED = {
    "ELSEWHERE",
    "ROOT",
    "FOLDER",
    "WHOLE_PHOTO",
    "(RED, GREEN)",
    "CORNERS",
    "TRUE_CORNERS",
}  # not for users


@pytest.mark.parametrize("script", DIFFERENT)
def test_what_has_the_same_name_is_the_same_text_in_the_same_order(script):
    copies, originals = read_pair(script)
    in_both = [name for name in originals if name in copies]
    assert [name for name in copies if name in originals] == in_both
    assert len(in_both) - len(DIFFERENT[script]) >= 8
    for name in in_both:
        if name in DIFFERENT[script]:
            assert copies[name] != originals[name], f"{name} is the same: not into DIFFERENT"
        else:
            assert copies[name] == originals[name], f"{name} in {script}: make copies"


@pytest.mark.parametrize("script", DESIGN)
def test_a_lesson_is_short_and_has_the_constants_of_the_design(script):
    most_lines, most_parts, constants = DESIGN[script]
    lines = (REPOSITORY / script).read_text(encoding="utf-8").splitlines()
    assert len(lines) <= most_lines and max(map(len, lines)) <= 100
    parts = read_parts(script)
    found = [part for part in parts.values() if part.startswith(("def ", "class "))]
    assert len(found) <= most_parts
    names = {name for name in parts if name.isupper()} - FIXED
    if constants:
        assert names == set(constants.split())
        assert all(parts[name].count("\n") == 1 for name in names), "one line each"
