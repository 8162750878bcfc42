"""Run the whole of example 1 on drawn pets, without a download: two to three minutes.

make demo
"""

import shutil
import sys
import tempfile
from pathlib import Path

import draw_pets
import recipes
from scripts import REPOSITORY, copy_scripts

PHOTOS = 400


def run(folder):
    """Draw pets, then generate, train and evaluate in a copy of the scripts in this folder."""
    copy_scripts(folder)
    # ImageNet's weights would be a download, and know nothing of drawings.
    recipes.apply(recipes.Run("example_1", "recipes/random_weights.diff"), folder)
    sys.path[:0] = [str(folder), str(folder / "example_1")]

    print(f"1. Drawing {PHOTOS} pets")
    draw_pets.draw_dataset(folder, PHOTOS)

    print("2. generate_dataset.py")
    import generate_dataset

    generate_dataset.main()

    print("3. example_1/train_model.py")
    import train_model

    train_model.ALPHA = 0.35
    train_model.IMAGE_SIZE = 96
    train_model.LEARNING_RATE = 3e-3  # random weights have further to go
    train_model.BATCH_SIZE = 16  # batch normalization is trained
    train_model.WINDOWS_PER_EPOCH, train_model.EPOCHS = 320, 40
    train_model.main()

    print("4. example_1/evaluate_performance.py")
    import evaluate_performance

    evaluate_performance.main()
    shutil.copy(evaluate_performance.find_run() / "predictions.png", REPOSITORY / "demo.png")
    print("These were drawings. For real photos run generate_dataset.py next: see README.md.")
    print("What was found in the drawings: demo.png")


if __name__ == "__main__":
    try:
        with tempfile.TemporaryDirectory(prefix="object-localization-") as temporary:
            run(Path(temporary))
    except KeyboardInterrupt:
        sys.exit("make demo: interrupted, nothing is left.")
