"""TensorBoard: what is logged, under which name, once; read back from the event files."""

import errno
import io
import re
from types import SimpleNamespace

import pyro
import pyro.distributions as dist
import pytest
import torch
from PIL import Image
from pyro.nn import PyroModule, PyroParam
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from tensorboard.plugins.custom_scalar.layout_pb2 import Layout
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from pyro_dlgm import DLGM, PPCA, fit, guides, likelihoods, nets, priors
from pyro_dlgm.plots.images import grid, squares
from pyro_dlgm.runs import events
from pyro_dlgm.runs.files import RunError
from pyro_dlgm.runs.run import Run
from pyro_dlgm.training import tensorboard

N, D, SHAPE = 40, 3, (1, 5, 4)
LABELS = torch.arange(N) % 4


def points(num=N):
    return torch.rand(num, *SHAPE, generator=torch.Generator().manual_seed(0))


def deep():
    return DLGM(priors.StandardNormal(D), likelihoods.FixedNormal(nets.MLP(D, SHAPE, (8,)), 0.5))


def amortized():
    return deep(), guides.Amortized(nets.MLP(SHAPE, 8, (8,)), D)


def train(pair, out, x=None, **settings):
    settings = {"epochs": 3, "batch_size": 20, "seed": 3, "out": out} | settings
    return fit(*pair, points() if x is None else x, **settings)


def read(folder):
    found = EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 0, "histograms": 0})
    found.Reload()
    return found


def scalars(folder):
    events = read(folder)
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def summaries(folder, part):
    r"""All summaries whose tag contains ``part``, from the bytes of all event files, purged or not."""
    files = sorted(folder.glob("events.out.tfevents.*"))
    events = [event for file in files for event in EventFileLoader(str(file)).Load()]
    return [value for event in events for value in event.summary.value if part in value.tag]


@pytest.fixture(scope="module")
def logged(tmp_path_factory):
    folder = tmp_path_factory.mktemp("board") / "run"
    with torch.random.fork_rng():
        torch.manual_seed(1)
        result = train(amortized(), folder, epochs=5, x_val=points(10), labels=LABELS, config={"note": [1, 2]})
    return folder, result


def test_bounds_on_training_and_validation_points_have_the_same_names(logged):
    found = scalars(logged[0])
    bounds = {"loss", "elbo", "rate", "distortion", "iwae_10"}
    assert {f"{part}/{name}" for part in ("train", "val") for name in bounds} <= found.keys()
    others = {"gradient_norm", "learning_rate", "points_per_second", "gradients_per_point"}
    assert {f"train/{name}" for name in others} | {"q/active_units"} <= found.keys()
    assert not [
        name for name in found if "log_joint" in name or "log_px" in name or "tempered" in name or "step" in name
    ]
    assert {len(events) for events in found.values()} == {5}


@pytest.mark.parametrize("part", ["train", "val"])
def test_the_elbo_is_minus_rate_and_distortion_and_below_the_iwae(logged, part):
    found = scalars(logged[0])
    rows = zip(*(found[f"{part}/{name}"] for name in ("elbo", "rate", "distortion", "iwae_10")), strict=True)
    for (_, elbo), (_, rate), (_, distortion), (_, iwae) in rows:
        assert elbo == pytest.approx(-(rate + distortion), abs=1e-4) and rate > 0 and elbo < iwae


def test_numbers_are_those_of_the_records(logged):
    found, history = scalars(logged[0]), logged[1].history
    for name, key, sign in [
        ("train/loss", "elbo", -1),
        ("val/loss", "val_elbo", -1),
        ("val/elbo", "val_elbo", 1),
        ("val/rate", "val_rate", 1),
        ("train/gradient_norm", "gradient_norm", 1),
        ("train/points_per_second", "points_per_second", 1),
    ]:
        assert [v for _, v in found[name]] == pytest.approx([sign * record[key] for record in history], rel=1e-5)
    assert [step for step, _ in found["train/elbo"]] == [record["step"] for record in history]


def test_images_and_histograms_are_there(logged):
    events = read(logged[0])
    assert {"images/data_above_reconstructions", "images/samples", "images/traversals"} == set(events.Tags()["images"])
    assert [e.step for e in events.Images("images/traversals")] == [2, 4, 8, 10]  # epochs 1, 2, 4 and the last
    assert {"q/mean", "q/kl_per_dimension"} <= set(events.Tags()["histograms"])
    counts = [sum(e.histogram_value.bucket) for e in events.Histograms("q/kl_per_dimension")]
    assert counts == [D] * 5


def test_pictures_are_large_enough_with_data_above_reconstructions(logged):
    events, images = read(logged[0]), torch.zeros(20, *SHAPE)  # 5 x 4 pixels, 6 times as large: 30 at least 28
    for name in ("images/data_above_reconstructions", "images/samples"):
        seen = Image.open(io.BytesIO(events.Images(name)[0].encoded_image_string))
        assert (seen.height, seen.width) == grid(images, 6, 10).shape[1:]


def test_labels_of_the_embedding_may_have_names(tmp_path):
    names = ["no\tone", "", "b", "c"]
    train(amortized(), tmp_path, epochs=1, labels=[names[label] for label in LABELS])
    (place,) = tmp_path.glob("*/latents")
    assert (place / "metadata.tsv").read_text().split("\n")[:5] == ["no one", "-", "b", "c", "no one"]


def test_what_is_known_of_training_points_alone_is_in_no_chart(tmp_path):
    model, x = PPCA(D, 20, scale=0.5), points().flatten(1)
    train((model, guides.MeanField(N, D)), tmp_path, x, epochs=1, x_val=x[:5])
    (value,) = summaries(tmp_path, "custom_scalars__config__")
    (category,) = Layout.FromString(value.tensor.string_val[0]).category
    titles = [chart.title for chart in category.chart]
    assert "elbo, nats per point" in titles and not [title for title in titles if "log_px" in title]


def test_the_embedding_has_a_code_a_label_and_a_sprite_for_each_point(logged):
    folder, result = logged
    (place,) = folder.glob("*/latents")
    codes = torch.tensor([[float(v) for v in line.split("\t")] for line in (place / "tensors.tsv").open()])
    assert torch.allclose(codes, result.guide.posterior(points()).mean.detach(), atol=1e-5)
    assert (place / "metadata.tsv").read_text().split() == [str(int(label)) for label in LABELS]
    config = (folder / "projector_config.pbtxt").read_text()
    assert config.count("embeddings {") == 1 and "sprite.png" in config and "00010/latents" in config


def hyper_parameters(folder):
    found = {}
    for value in summaries(folder, "_hparams_"):
        data = HParamsPluginData.FromString(value.metadata.plugin_data.content)
        found.setdefault(value.tag.rsplit("/", 1)[-1], []).append(data)
    return found


def test_hyper_parameters_are_there_once_in_the_same_run(logged):
    folder, _ = logged
    found = hyper_parameters(folder)
    assert {name: len(values) for name, values in found.items()} == {
        "experiment": 1,
        "session_start_info": 1,
        "session_end_info": 1,
    }
    values = dict(found["session_start_info"][0].session_start_info.hparams)
    assert values["lr"].number_value == 2e-3 and values["seed"].number_value == 3
    assert values["guide"].string_value == "Amortized" and values["likelihood"].string_value == "FixedNormal"
    assert values["latents"].number_value == D and values["note"].string_value == "[1, 2]"
    assert values.keys() == {"guide", "likelihood", "latents", "lr", "seed", "note"}
    assert [m.name.tag for m in found["experiment"][0].experiment.metric_infos] == ["train/elbo", "val/elbo"]
    assert not [p for p in folder.iterdir() if p.is_dir() and list(p.glob("events*"))]


def test_the_configuration_is_a_table(logged):
    (said,) = (value.tensor.string_val[0].decode() for value in summaries(logged[0], "config/text_summary"))
    top, rule, *lines = said.split("\n")
    assert (top, rule) == ("| option | value |", "| --- | --- |")
    assert "| `fit.lr` | 0.002 |" in lines and "| `note` | [1, 2] |" in lines
    assert all(line.replace("\\|", "").count("|") == 3 for line in lines)


def test_a_table_has_a_line_for_each_value_that_there_is():
    said = events.table({"fit": {"lr": 0.5, "patience": None}, "note": "a|b"})
    assert said.split("\n")[2:] == ["| `fit.lr` | 0.5 |", "| `note` | a\\|b |"]


def test_events_are_cut_after_a_step(tmp_path):
    writer = tensorboard.SummaryWriter(str(tmp_path))
    for step in range(4):
        writer.add_scalar("a", 0.0, step)
    writer.close()
    events.cut(tmp_path, 2)
    assert [step for step, _ in scalars(tmp_path)["a"]] == [0, 1, 2]


def test_a_resumed_run_keeps_the_events_up_to_its_step(tmp_path, monkeypatch):
    steps = []
    monkeypatch.setattr(tensorboard, "cut", lambda folder, step: steps.append(step))
    for epochs in (1, 2):
        train(amortized(), tmp_path, epochs=epochs, schedule="constant", resume=epochs > 1)
    assert steps == [0, 2]


def test_a_new_event_file_has_a_second_of_its_own(tmp_path, monkeypatch):
    (tmp_path / "events.out.tfevents.0000000007.host").touch()
    clock = iter([7.2, 7.9, 8.1])
    monkeypatch.setattr(events, "time", SimpleNamespace(time=lambda: next(clock), sleep=lambda _: None))
    events.wait_for_a_new_second(tmp_path)
    assert next(clock, None) is None  # it has looked until the second was over


def test_training_and_validation_are_in_one_chart(logged):
    (value,) = summaries(logged[0], "custom_scalars__config__")
    layout = Layout.FromString(value.tensor.string_val[0])
    (category,), found = layout.category, scalars(logged[0])
    titles = [f"{name}, nats per point" for name in ("loss", "elbo", "iwae_10", "rate", "distortion")]
    assert sorted(chart.title for chart in category.chart) == sorted(titles)
    for chart in category.chart:
        name = chart.title.partition(",")[0]
        matched = [tag for pattern in chart.multiline.tag for tag in found if re.match(pattern, tag)]
        assert matched == [f"train/{name}", f"val/{name}"]


def test_what_does_not_move_is_no_curve(logged, tmp_path):
    assert "train/beta" not in scalars(logged[0])
    train(amortized(), tmp_path / "constant", schedule="constant")
    assert "train/learning_rate" not in scalars(tmp_path / "constant")
    train(amortized(), tmp_path / "warm", warmup=2)
    assert [beta for _, beta in scalars(tmp_path / "warm")["train/beta"]] == [0.5, 1.0, 1.0]


def test_a_resumed_run_says_nothing_twice(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(tensorboard.TensorBoard, "_close", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):  # after the last step is logged, before it is in a checkpoint
            train(amortized(), tmp_path)
    assert Run(tmp_path).load()["step"] == 0
    left = tmp_path / "00006" / "latents"  # as if it had been killed while it wrote the embedding
    left.mkdir(parents=True)
    (left / "metadata.tsv").write_text("of another time")
    for _ in range(2):
        train(amortized(), tmp_path, resume=True)
    assert {name: len(v) for name, v in hyper_parameters(tmp_path).items()} == {
        "experiment": 1,
        "session_start_info": 1,
        "session_end_info": 1,
    }
    assert len(summaries(tmp_path, "config/text_summary")) == 1
    assert [step for step, _ in scalars(tmp_path)["train/loss"]] == [2, 4, 6]
    assert not (left / "metadata.tsv").exists() and (left / "tensors.tsv").exists()
    assert (tmp_path / "projector_config.pbtxt").read_text().count("embeddings {") == 1


@pytest.mark.parametrize("name", ["PointEstimate", "AutoDelta"])
def test_a_point_mass_has_a_log_joint_and_no_bound(name, tmp_path):
    model = deep()
    guide = guides.PointEstimate(N, D) if name == "PointEstimate" else guides.auto(model, name, N)
    train((model, guide), tmp_path, x_val=points(10))
    found = scalars(tmp_path)
    assert {"train/loss", "train/log_joint", "val/loss", "val/log_joint", "q/active_units"} <= found.keys()
    assert not [tag for tag in found if any(word in tag for word in ("elbo", "rate_", "/rate", "distortion", "iwae"))]
    t = guide.posterior(index=torch.arange(N)).mean
    value = float(model.log_joint(points(), t).mean().detach())
    assert found["train/log_joint"][-1][1] == pytest.approx(value, rel=1e-4)
    events = read(tmp_path)
    assert "q/kl_per_dimension" not in events.Tags()["histograms"] and "images/traversals" in events.Tags()["images"]
    assert [m.name.tag for m in hyper_parameters(tmp_path)["experiment"][0].experiment.metric_infos] == [
        "train/log_joint",
        "val/log_joint",
    ]


@pytest.mark.parametrize("exact", [True, False])
def test_ppca_logs_its_evidence_and_its_parameters(exact, tmp_path):
    model, x = PPCA(D, 20, scale=0.5), points().flatten(1)
    train((model, guides.Exact(model) if exact else guides.MeanField(N, D)), tmp_path, x)
    found, events = scalars(tmp_path), read(tmp_path)
    evidence = float(model.log_prob(x).mean().detach())
    assert found["train/log_px"][-1][1] == pytest.approx(evidence, rel=1e-4)
    assert found["ppca/sigma2"][-1][1] == pytest.approx(float(model.sigma2.detach()), rel=1e-5)
    norms = events.Histograms("ppca/norms_of_columns_of_W")[-1].histogram_value
    assert norms.num == D and norms.sum == pytest.approx(float(model.W.detach().norm(dim=0).sum()), rel=1e-4)
    gap = evidence - found["train/elbo"][-1][1]
    assert abs(gap) < 1e-3 if exact else gap > 0.01
    assert not events.Tags()["images"]  # rows of numbers are no images
    assert "sprite" not in (tmp_path / "projector_config.pbtxt").read_text()


class Own(PyroModule):
    r"""Somebody's guide, which does not say its posterior."""

    def __init__(self):
        super().__init__()
        self.mean = PyroParam(torch.zeros(N, D))

    def forward(self, x, index=None, *, mask=None, size=None):
        with pyro.plate("data", size or len(x), subsample=index, dim=-1):
            pyro.sample("t", dist.Normal(self.mean[index], 0.5).to_event(1))


def test_any_pyro_guide_logs_what_it_has(tmp_path):
    result = train((deep(), Own()), tmp_path)
    found = scalars(tmp_path)
    assert [v for _, v in found["train/elbo"]] == pytest.approx([r["elbo"] for r in result.history], rel=1e-5)
    assert "train/loss" in found and not [tag for tag in found if tag.startswith("q/") or "rate" in tag.split("/")[1:]]
    assert not read(tmp_path).Tags()["images"]


def test_a_tempered_objective_is_a_loss_and_no_elbo(tmp_path):
    result = train(amortized(), tmp_path, epochs=2, warmup=1)
    found = scalars(tmp_path)
    assert found["train/loss"][0][1] == pytest.approx(-result.history[0]["tempered_elbo"], rel=1e-5)
    assert "train/beta" not in found and "train/tempered_elbo" not in found  # β is 1 from the first epoch's end on
    for (_, elbo), (_, rate), (_, distortion) in zip(
        *(found[f"train/{n}"] for n in ("elbo", "rate", "distortion")), strict=True
    ):
        assert elbo == pytest.approx(-(rate + distortion), abs=1e-4)


def test_logging_changes_nothing_in_the_training(tmp_path):
    torch.manual_seed(5)
    quiet = fit(*amortized(), points(), epochs=2, batch_size=20, seed=3)
    torch.manual_seed(5)
    loud = train(amortized(), tmp_path, epochs=2)
    assert all(map(torch.equal, quiet.model.state_dict().values(), loud.model.state_dict().values()))
    assert [r["elbo"] for r in quiet.history] == [r["elbo"] for r in loud.history]
    assert loud.guide.training


def test_a_full_disk_ends_the_run_with_one_line_and_it_can_go_on(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with (
        monkeypatch.context() as patch,
        pytest.raises(RunError, match="make room and resume"),
    ):
        patch.setattr(tensorboard.SummaryWriter, "add_embedding", full)
        train(amortized(), tmp_path)
    assert train(amortized(), tmp_path, resume=True).history[-1]["epoch"] == 3


def test_sprites_are_squares_of_bounded_size():
    large, narrow = squares(torch.zeros(3, 3, 200, 100), 64), squares(torch.ones(3, 1, 28, 20), 64)
    assert large.shape == (3, 3, 64, 64) and not large[..., :30].any() and bool((large[..., 34:] == 1).all())
    assert narrow.shape == (3, 1, 28, 28) and not narrow[..., :20].any() and bool((narrow[..., 20:] == 1).all())


@pytest.mark.parametrize("labels", [torch.arange(N - 1), torch.zeros(N, 2, dtype=torch.long)])
def test_labels_that_do_not_fit_are_refused(labels, tmp_path):
    with pytest.raises(ValueError, match=r"labels have shape .*; expected \(40,\)"):
        train(amortized(), tmp_path / "run", labels=labels)
    assert not (tmp_path / "run").exists()
