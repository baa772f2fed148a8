"""What `bench` compares computes the same thing. Run: python -m pytest tests/test_bench.py"""

from __future__ import annotations

import pytest
import torch

import engine
from engine import _tuning_bench
from engine.training import Batch


@pytest.mark.parametrize("classes", [3, 8])
def test_upstreams_step_and_ours_have_the_same_loss_and_gradient(classes):
    """Without dropout; 77 padded positions and the image tower twice against trimmed prompts and cached features."""
    mini = engine.load_backbone("scope-mini")
    images, features, labels = _tuning_bench.material(mini, classes)
    upstream = _tuning_bench.UpstreamStep(mini, classes, length=77, dropout=False)
    ours = _tuning_bench.OurStep(mini, classes)
    theirs = upstream.loss(images, labels)
    theirs.backward()
    batch = Batch([0], features[None], labels[None], torch.full((1, 4), 0.25))
    terms = ours.learner.terms(batch)
    ours.learner.backward(terms, batch)
    assert sum(t.item() for t in terms.values()) == pytest.approx(theirs.item(), rel=1e-4)
    gradient = ours.learner.parameters[0]["context"].grad
    assert (gradient - upstream.context.grad).norm() < 1e-3 * upstream.context.grad.norm()


def test_a_stack_of_runs_steps_as_one_run_does():
    mini = engine.load_backbone("scope-mini")
    _, features, labels = _tuning_bench.material(mini, 3)
    one, three = _tuning_bench.OurStep(mini, 3), _tuning_bench.OurStep(mini, 3, runs=3)
    for step in (one, three):
        step(features, labels)
    for parameters in three.learner.parameters:
        torch.testing.assert_close(parameters["context"], one.learner.parameters[0]["context"], atol=1e-6, rtol=1e-5)
