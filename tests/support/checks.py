"""Checks that several tests make: of messages, gradients and pixels."""

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

GREEN, RED = np.array([0, 255, 0]), np.array([255, 0, 0])


def message_of(function):
    """Return the one-line message with which a script stops."""
    with pytest.raises(SystemExit) as stop:
        function()
    assert isinstance(stop.value.code, str), "the exit code would be 0"
    assert len(stop.value.code.splitlines()) == 1
    return stop.value.code


def check_gradient(loss, true, predicted):
    """Check that a loss and its gradient are numbers; return the loss."""
    predicted = tf.constant(predicted, "float32")
    with tf.GradientTape() as tape:
        tape.watch(predicted)
        values = loss(true, predicted)
    assert np.isfinite(values).all() and np.isfinite(tape.gradient(values, predicted)).all()
    return values


def read_pixels(file):
    with Image.open(file) as opened:
        return np.asarray(opened).astype(int)


def is_colour(pixels, colour):
    """Return which pixels of a JPEG are nearly of a colour."""
    return np.abs(pixels - colour).max(axis=-1) < 90
