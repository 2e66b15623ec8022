r"""Listeners of fit: what they are told, in which order, and that their errors end nothing."""

import warnings

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from pyro_dlgm import DLGM, fit, guides, likelihoods, nets, priors
from pyro_dlgm.runs.files import RunError
from pyro_dlgm.runs.run import Run
from pyro_dlgm.training import autosave, tensorboard

N, D, SHAPE = 30, 2, (1, 4, 4)


class Heard:
    r"""Keeps what it is told."""

    def __init__(self):
        self.steps, self.records = [], []

    def after(self, step, record):
        self.steps.append(step.step)
        self.records += [record] if record is not None else []


class Broken:
    r"""Raises at each step."""

    def __init__(self, error=RuntimeError("no room in\nthe inn")):  # noqa: B008
        self.error = error

    def after(self, step, record):
        raise self.error


def pair():
    torch.manual_seed(0)
    model = DLGM(priors.StandardNormal(D), likelihoods.FixedNormal(nets.MLP(D, SHAPE, (8,)), 0.5))
    return model, guides.Amortized(nets.MLP(SHAPE, 8, (8,)), D)


def train(*listeners, **settings):
    x = torch.rand(N, *SHAPE, generator=torch.Generator().manual_seed(0))
    return fit(*pair(), x, **({"epochs": 3, "batch_size": 10, "seed": 0, "listeners": listeners} | settings))


def weights(result):
    return torch.cat([p.detach().flatten() for m in (result.model, result.guide) for p in m.parameters()])


@pytest.mark.parametrize("on_disk", [False, True])
def test_a_listener_hears_each_step_and_each_record(on_disk, tmp_path):
    heard = Heard()
    result = train(heard, out=tmp_path if on_disk else None)
    assert heard.steps == list(range(1, 10)) and heard.records == result.history


@pytest.mark.parametrize("on_disk", [False, True])
def test_an_error_in_a_listener_warns_once_and_changes_nothing(on_disk, tmp_path):
    heard, plain = Heard(), train()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        result = train(Broken(), heard, out=tmp_path if on_disk else None)
    said = [str(w.message) for w in caught if "the training goes on" in str(w.message)]
    assert said == ["Broken.after raised RuntimeError (no room in the inn); the training goes on"]
    assert heard.steps == list(range(1, 10)) and torch.equal(weights(result), weights(plain))


def test_an_interrupt_in_a_listener_ends_the_training():
    with pytest.raises(KeyboardInterrupt):
        train(Broken(KeyboardInterrupt()))


def test_what_is_no_listener_is_refused():
    with pytest.raises(TypeError, match=r"a listener is a function; expected an object with a method after"):
        train(lambda step, record: None)


def test_a_listener_has_heard_of_a_step_before_it_is_in_a_checkpoint(tmp_path, monkeypatch):
    monkeypatch.setattr(autosave, "EVERY", 0.0)
    saved = []

    class Looks:
        def after(self, step, record):
            saved.append(Run(tmp_path).load()["step"] - step.step)

    train(Looks(), out=tmp_path)
    assert set(saved) == {-1}


def scalars(folder):
    events = EventAccumulator(str(folder))
    events.Reload()
    return {tag: [e.value for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_tensorboard_logs_every_key_of_a_record(tmp_path):
    x_val = torch.rand(5, *SHAPE)
    history = train(out=tmp_path, x_val=x_val).history
    found = scalars(tmp_path)
    for key in history[0].keys() - {"step", "elbo"}:  # elbo is that of the points shown, after the epoch
        tag = f"val/{key.removeprefix('val_')}" if key.startswith("val_") else f"train/{key}"
        assert found[tag] == pytest.approx([record[key] for record in history], rel=1e-5), key
    assert found["train/loss"] == pytest.approx([-record["elbo"] for record in history], rel=1e-5)


@pytest.mark.parametrize("picture", ["_pictures", "_embedding"])
def test_an_error_in_a_picture_warns_and_ends_nothing(picture, tmp_path, monkeypatch):
    def broken(*_):
        raise ValueError("a picture of nothing")

    monkeypatch.setattr(tensorboard.TensorBoard, picture, broken)
    said = r"for TensorBoard raised ValueError \(a picture of nothing\); the training goes on"
    with pytest.warns(UserWarning, match=said):
        result = train(out=tmp_path)
    assert len(result.history) == 3 and len(scalars(tmp_path)["train/loss"]) == 3
    assert Run(tmp_path).load()["step"] == 9


def test_a_run_error_of_a_listener_ends_the_training():
    with pytest.raises(RunError, match="the plug was pulled"):
        train(Broken(RunError("the plug was pulled")))


class Meddling:
    r"""Draws, and turns gradients off."""

    def after(self, step, record):
        torch.rand(3)
        torch.set_grad_enabled(False)


def test_a_listener_cannot_change_the_training():
    assert torch.equal(weights(train(Meddling())), weights(train()))
    assert torch.is_grad_enabled()


def test_listeners_that_come_once_are_all_called():
    heard = Heard()
    train(listeners=(listener for listener in [heard]))
    assert len(heard.steps) == 9
