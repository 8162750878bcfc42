"""Losses and metrics stay numbers, and so do their gradients, whatever boxes they are given."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from conftest import to_numpy

SIZES = (0, 1e-30, 1, 96, 1e6)
PLACES = (-1e6, -1, 0, 48, 96, 1e6)


def boxes_of_all_kinds():
    """Return true and predicted boxes: (n, 4) each, every size and place against every other."""
    rows = [(x, 48, size, 20) for x in PLACES for size in SIZES]
    rows += [(48, 48, -size, -size) for size in SIZES]
    predicted = np.array(rows, "float32")
    true = np.array([(48, 48, 0, 0), (0, 0, 0, 30), (48, 40, 30, 20), (48, 48, 96, 96)], "float32")
    return np.repeat(true, len(predicted), axis=0), np.tile(predicted, (len(true), 1))


def value_and_gradient(function, y_true, y_pred):
    """Return a function's values and the gradient of their sum with respect to y_pred."""
    y_pred = tf.convert_to_tensor(y_pred)
    with tf.GradientTape() as tape:
        tape.watch(y_pred)
        values = function(y_true, y_pred)
        total = keras.ops.sum(values)
    return to_numpy(values), to_numpy(tape.gradient(total, y_pred))


def check(function, y_true, y_pred):
    """Make sure that values and gradients are numbers."""
    values, gradient = value_and_gradient(function, y_true, y_pred)
    assert np.isfinite(values).all(), y_pred[~np.isfinite(values)]
    assert np.isfinite(gradient).all(), y_pred[~np.isfinite(gradient).all(axis=1)]


@pytest.mark.parametrize("name", ["mse", "mae", "smooth_l1", "log_mse", "l1", "giou", "ciou"])
def test_losses_of_boxes(train_model, name):
    check(train_model.LOSSES[name], *boxes_of_all_kinds())


@pytest.mark.parametrize("function", ["iou", "giou"])
def test_metrics_of_boxes(train_model, function):
    check(getattr(train_model, function), *boxes_of_all_kinds())


def test_the_loss_of_votes(train_model):
    y_true, y_pred = boxes_of_all_kinds()
    scores = np.tile([[-1e6], [0.0], [1e6]], (len(y_pred), 1))[: len(y_pred)]
    votes = np.tile(np.concatenate([y_pred, scores], axis=1), (1, 9)).astype("float32")
    check(train_model.loss, y_true, np.concatenate([y_pred, votes], axis=1))


@pytest.mark.parametrize("example", ["example_2"])
@pytest.mark.parametrize("classes", [2, 3])
def test_the_loss_of_boxes_and_classes(train_model, classes):
    train_model.CLASSES = classes
    y_true, boxes = boxes_of_all_kinds()
    y_true = np.column_stack([y_true, np.arange(len(y_true)) % classes]).astype("float32")
    certain = np.eye(classes, dtype="float32")[np.arange(len(y_true)) // 2 % classes]
    check(train_model.loss, y_true, np.concatenate([boxes, certain], axis=1))
    for metric in train_model.METRICS:
        values = to_numpy(metric(y_true, np.concatenate([boxes, certain], axis=1)))
        assert np.isfinite(values).all()
