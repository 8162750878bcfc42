"""The lessons stay short, and what is the same in the three examples is the same text.

tests/tools/copies.py says what may differ, and makes the copies.
"""

import pytest

from copies import DIFFERENT, REPOSITORY, read_pair, read_parts

TRAINING = (
    "TRAIN_CSV VALIDATION_CSV WEIGHTS ALPHA IMAGE_SIZE FROZEN_LAYERS EPOCHS WINDOWS_PER_EPOCH "
    "BATCH_SIZE LEARNING_RATE KEPT_SIZE RESUME SEED"
)
EVALUATION = "RUN LOOKS"
DESIGN = {  # lines at most (something leaves rather), and the constants: these and no others
    "example_1/train_model.py": (320, TRAINING),
    "example_2/train_model.py": (390, f"{TRAINING} NOTHING BOX_WEIGHT CLASS_WEIGHT"),
    "example_3/train_model.py": (330, f"{TRAINING} CELLS"),
    "example_1/evaluate_performance.py": (205, EVALUATION),
    "example_2/evaluate_performance.py": (310, f"{EVALUATION} STARTS THRESHOLD"),
    "example_3/evaluate_performance.py": (250, f"{EVALUATION} THRESHOLD MIN_CELLS"),
    "generate_dataset.py": (410, None),
}
FIXED = {"ROOT", "RUNS", "WHOLE_PHOTO", "CORNERS", "TRUE_CORNERS", "AROUND_BOX"}  # not for users


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
    most_lines, constants = DESIGN[script]
    lines = (REPOSITORY / script).read_text(encoding="utf-8").splitlines()
    assert len(lines) <= most_lines and max(map(len, lines)) <= 100
    parts = read_parts(script)
    if constants:
        names = {name for name in parts if name.isupper() and name.isidentifier()} - FIXED
        assert names == set(constants.split())
        assert all(parts[name].count("\n") == 1 for name in names), "one line each"


def test_the_tests_are_short_too():
    files = [*(REPOSITORY / "tests").rglob("*.py")]
    assert sum(len(file.read_text(encoding="utf-8").splitlines()) for file in files) <= 3800
