"""Tables of rows in files: the same numbers as in memory, a way back to each checkpoint, and refusals by name."""

import copy
import errno
import io
import json
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import pyro
import pytest
import torch
from killing import D, N, broken_off, pair, points, same, train, weights
from pyro.infer import Trace_ELBO
from pyro_dlgm.guides import FullRank, MeanField, PointEstimate
from pyro_dlgm.guides.rows import kept

from pyro_dlgm import SVI, evaluate, fit, load
from pyro_dlgm.data.batches import Batches
from pyro_dlgm.optim.row_adam import RowAdam
from pyro_dlgm.runs.files import RunError
from pyro_dlgm.runs.run import Run
from pyro_dlgm.storage.journal import Journal, Place
from pyro_dlgm.storage.mapped_file import MappedFile, allocate
from pyro_dlgm.storage.row_files import RowFiles
from pyro_dlgm.training import autosave, preparation, session

HERE = Path(__file__).parent


def files(guide) -> RowFiles:
    return guide.rows.files


# The same numbers


@pytest.mark.parametrize("kind", [MeanField, FullRank, PointEstimate])
@pytest.mark.parametrize("e_steps", [1, 3])
def test_a_training_in_files_is_that_in_memory_bit_for_bit(kind, e_steps, tmp_path, monkeypatch):
    settings = {"epochs": 4, "batch_size": 14, "seed": 3, "e_steps": e_steps, "schedule": "linear", "clip_norm": 1.0}
    (model, _), (other, _) = pair("mean_field"), pair("mean_field")
    filed, held = kind(N, D, folder=tmp_path, block=16), kind(N, D)
    held.set_rows(filed.rows.weight.detach().clone())
    ours = fit(model, filed, points(), **settings).history
    monkeypatch.setattr(preparation, "in_files", lambda *_: [filed.rows])  # the blocks in which points are visited
    theirs = fit(other, held, points(), **settings).history
    assert torch.equal(filed.rows.weight, held.rows.weight) and same(model.state_dict(), other.state_dict())
    assert [h["elbo" if kind.family.has_density else "log_joint"] for h in ours] == [
        h["elbo" if kind.family.has_density else "log_joint"] for h in theirs
    ]


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_the_table_has_the_default_dtype_and_the_moments_one_that_counts(dtype, tmp_path):
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        guide = MeanField(N, D, folder=tmp_path)
    finally:
        torch.set_default_dtype(before)
    assert guide.rows.weight.dtype == dtype
    wide = torch.promote_types(dtype, torch.float32)
    held, moments = copy.deepcopy(guide.rows.weight.detach()), RowAdam([guide.rows.weight], lr=0.1)
    files(guide).keep(new=True)
    reference = files(guide).reference()
    for rows in ([3, 59, 3], [0, 3, 1]):
        guide.rows(torch.tensor(rows)).sum().backward()
        moments.step()
        guide.rows.weight.grad = None
    assert {v.dtype for v in files(guide).moments().values()} == {wide}
    assert files(guide).moments()["visits"].tolist() == [1, 1, 0, 2] + [0] * 55 + [1]
    assert not torch.equal(guide.rows.weight, held)
    files(guide).restore(reference)
    assert torch.equal(guide.rows.weight, held)
    assert all((v == 0).all() for v in files(guide).moments().values())


def test_rows_start_as_those_in_memory_do_and_are_written_block_by_block(tmp_path, monkeypatch):
    monkeypatch.setattr("pyro_dlgm.storage.row_files.BLOCK", 1000)
    guide = MeanField(20_500, 3, init_scale=0.5, folder=tmp_path)
    mean, log_scale = guide.rows.weight.detach().chunk(2, -1)
    assert abs(mean.mean()) < 0.01 and mean.std() == pytest.approx(0.5, abs=0.01) and len(mean.unique()) > 60_000
    assert torch.equal(log_scale, torch.full_like(mean, 0.5).log())


def test_what_is_drawn_after_the_rows_does_not_depend_on_whether_they_were_there(tmp_path):
    drawn = []
    for _ in range(2):
        torch.manual_seed(0)
        guide = MeanField(N, D, folder=tmp_path)
        drawn.append((torch.rand(3), guide.rows.weight.detach().clone()))
        del guide
    assert torch.equal(drawn[0][0], drawn[1][0]) and torch.equal(drawn[0][1], drawn[1][1])


@pytest.mark.parametrize("N", [5, 70, 111])
def test_rows_in_memory_are_made_in_blocks_with_the_numbers_of_one_draw(N, monkeypatch):
    torch.manual_seed(0)
    whole = MeanField(N, 16)
    monkeypatch.setattr("pyro_dlgm.guides.rows.BLOCK", 10)
    torch.manual_seed(0)
    assert torch.equal(MeanField(N, 16).rows.weight, whole.rows.weight)


# Checkpoints


def test_a_checkpoint_holds_no_rows_and_loads_as_weights_only(tmp_path):
    train("in_files", tmp_path, epochs=2)
    state = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert list(state["guide"]) == ["rows.files"] and list(state["guide"]["rows.files"]) == [
        "id",
        "shape",
        "position",
        "checksum",
    ]
    assert state["optimizers"][1]["state"] == {0: state["guide"]["rows.files"]}
    assert state["batches"]["order"] > 0 and (tmp_path / "rows.journal").stat().st_size == 20


def test_the_journal_grows_with_what_is_changed_and_ends_with_a_checkpoint(tmp_path, monkeypatch):
    monkeypatch.setattr(autosave, "EVERY", 1e9)
    sizes, append = [], Journal.append

    def appended(self, content):
        append(self, content)
        sizes.append(self.path.stat().st_size)

    monkeypatch.setattr(Journal, "append", appended)
    train("in_files", tmp_path, epochs=3)
    row = 8 + 4 * (1 + 3 * 2 * D)  # its number, visits, two moments and itself
    assert sizes == [20 + k * (16 + 20 * row) for k in range(1, 10)]
    assert (tmp_path / "rows.journal").stat().st_size == 20


@pytest.mark.parametrize("step", [4, 5])
def test_a_training_that_broke_off_goes_on_from_its_checkpoint(step, tmp_path, monkeypatch):
    settings = {"epochs": 4, "schedule": "constant", "e_steps": 2}
    train("in_files", tmp_path / "whole", **settings)
    broken_off("in_files", tmp_path / "cut", step, monkeypatch, **settings)
    train("in_files", tmp_path / "cut", resume=True, **settings)
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "cut"))


def broken(out, monkeypatch, step=5):
    r"""A run whose rows are some steps ahead of its checkpoint; the weights of it at the checkpoint."""
    saved = []
    with monkeypatch.context() as patch:
        save = session.save

        def saves(run, training):
            save(run, training)
            saved.append(files(training.svi.guide).weight.clone())

        patch.setattr(session, "save", saves)
        patch.setattr(autosave, "save", lambda *_: None)
        broken_off("in_files", out, step, patch)
    return saved[0]


def test_load_goes_back_to_the_checkpoint(tmp_path, monkeypatch):
    before = broken(tmp_path, monkeypatch)
    model, guide = pair("in_files", tmp_path)
    assert not torch.equal(guide.rows.weight, before)
    load(tmp_path, model=model, guide=guide)
    assert torch.equal(guide.rows.weight, before)
    assert all((v == 0).all() for v in files(guide).moments().values())
    assert files(guide).reference() == Run(tmp_path).load()["guide"]["rows.files"]
    assert (tmp_path / "rows.journal").stat().st_size == 20


def test_a_folder_that_was_moved_or_copied_goes_on(tmp_path, monkeypatch):
    train("in_files", tmp_path / "whole")
    broken(tmp_path / "here", monkeypatch)
    shutil.copytree(tmp_path / "here", tmp_path / "copy")
    (tmp_path / "here").rename(tmp_path / "there")
    for place in ("copy", "there"):
        train("in_files", tmp_path / place, resume=True)
        assert same(weights(tmp_path / "whole"), weights(tmp_path / place))


def test_rows_of_another_copy_are_refused(tmp_path, monkeypatch):
    train("in_files", tmp_path / "one", epochs=1, schedule="constant")
    shutil.copytree(tmp_path / "one", tmp_path / "other")
    train("in_files", tmp_path / "one", epochs=2, schedule="constant", resume=True)
    other, guide = Run(tmp_path / "other"), pair("in_files", tmp_path / "other")[1]
    reference = Run(tmp_path / "one").load()["guide"]["rows.files"]
    assert reference["id"] == files(guide).folder.header["id"]
    with pytest.raises(ValueError, match="are older than the checkpoint; copy both together"):
        files(guide).restore(reference)
    with pytest.raises(ValueError, match="another copy of this training"):
        files(guide).restore(other.load()["guide"]["rows.files"] | {"checksum": 1})


def test_rows_of_another_training_are_refused(tmp_path):
    train("in_files", tmp_path / "run", epochs=2)
    model, guide = pair("in_files", tmp_path / "run")
    fit(model, guide, points(), epochs=1)  # on the same rows, without a run
    changed = guide.rows.weight.detach().clone()
    with pytest.raises(RunError, match=r"those of another training .* or were changed since"):
        load(tmp_path / "run", model=model, guide=guide)
    with pytest.raises(RunError, match="expected the folder of the run"):
        train("in_files", tmp_path / "run", epochs=2, resume=True)
    assert torch.equal(guide.rows.weight, changed)


@pytest.mark.parametrize("how", ["set_rows", "by hand", "new run", "its run was resumed"])
def test_a_state_dict_is_refused_once_the_rows_have_changed(how, tmp_path):
    model, guide = pair("in_files", tmp_path)
    svi = SVI(model, guide)
    svi.step(points()[:5], torch.arange(5))
    state = guide.state_dict()
    guide.load_state_dict(state)  # nothing has changed
    if how == "set_rows":
        guide.set_rows(torch.ones(N, 2 * D))
        assert (guide.rows.weight == 1).all()
    elif how == "by hand":
        with torch.no_grad():
            guide.rows.weight[3] += 1
        guide.state_dict()
    else:
        train("in_files", tmp_path, epochs=1)
        if how == "its run was resumed":
            state = Run(tmp_path).load()["guide"]
            train("in_files", tmp_path, epochs=1, resume=True)
            guide.load_state_dict(state)
            return
    with pytest.raises(ValueError, match="those of another training"):
        guide.load_state_dict(state)
    with pytest.raises(RuntimeError, match=r"rows\.files"):
        guide.load_state_dict(pair("mean_field")[1].state_dict())


def test_an_undisturbed_step_after_a_state_dict_makes_it_stale(tmp_path):
    model, guide = pair("in_files", tmp_path)
    svi = SVI(model, guide)
    for _ in range(2):
        svi.step(points()[:5], torch.arange(5))
    state = copy.deepcopy(guide.state_dict())
    svi.step(points()[:5], torch.arange(5))
    with pytest.raises(ValueError, match="changed since without a checkpoint"):
        guide.load_state_dict(state)


def test_changes_past_the_journal_end_the_training(tmp_path):
    class Meddles:
        def after(self, step, record):
            if step.step == 3:
                with torch.no_grad():
                    guide.rows.weight[0] += 1

    model, guide = pair("in_files", tmp_path)
    with pytest.raises(RuntimeError, match="changed past their journal"):
        fit(model, guide, points(), epochs=4, batch_size=20, out=tmp_path, listeners=[Meddles()])


def test_a_killed_training_may_be_left_for_another_one(tmp_path, monkeypatch):
    broken(tmp_path, monkeypatch)
    model, guide = pair("in_files", tmp_path)
    fit(model, guide, points(), epochs=1, batch_size=20)
    assert files(guide).journal.end == Place(0, 0)
    assert files(guide).moments()["visits"].tolist() == [1] * N


def test_two_optimizers_cannot_share_a_journal(tmp_path):
    model, guide = pair("in_files", tmp_path)
    with kept([guide.rows], new=True):
        SVI(model, guide).step(points()[:5], torch.arange(5))
        with pytest.raises(RuntimeError, match="another optimizer moves the rows"):
            SVI(model, guide).step(points()[:5], torch.arange(5))
        with pytest.raises(RuntimeError, match="overwrite them before or after it"):
            guide.set_rows(torch.zeros(N, 2 * D))


# Killed at chosen moments


def test_killed_at_any_moment_it_goes_on_bit_for_bit(tmp_path):
    done = subprocess.run([sys.executable, "crashing.py", str(tmp_path)], cwd=HERE, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert [line for line in done.stdout.splitlines() if not line.endswith(": as it should be")] == []
    assert len(done.stdout.splitlines()) == 36


# Damaged and full


@pytest.mark.parametrize("place", [3, 12, 22, 33, 60, -1])
def test_a_flipped_bit_is_noticed(place, tmp_path):
    journal = Journal.create(tmp_path / "journal")
    journal.append(b"a" * 20)
    journal.append(b"b" * 20)
    content = bytearray((tmp_path / "journal").read_bytes())
    content[place] ^= 4
    (tmp_path / "journal").write_bytes(content)
    if place == 12:  # in the place of the beginning, of which each record knows
        with pytest.raises(ValueError, match="has no way back"):
            Journal(tmp_path / "journal").since(Place(0, 0))
        return
    with pytest.raises(ValueError, match=r"journal is damaged at byte \d+"):
        Journal(tmp_path / "journal")


def test_a_place_is_that_of_one_history(tmp_path):
    one, other = Journal.create(tmp_path / "one"), Journal.create(tmp_path / "other")
    for content in (b"a", b"c"):
        one.append(content)
    for content in (b"b", b"c"):
        other.append(content)
    assert one.end.position == other.end.position
    with pytest.raises(ValueError, match="another copy of this training"):
        other.since(one.end)
    with pytest.raises(ValueError, match="changed since by another training"):
        Journal.create(tmp_path / "later", one.end).since(Place(0, 0))


def test_what_was_being_written_is_cut_off_wherever_it_ends(tmp_path):
    journal = Journal.create(tmp_path / "journal", Place(7, 8))
    journal.append(b"a" * 20)
    first, size = journal.end, (tmp_path / "journal").stat().st_size
    journal.append(b"b" * 20)
    content = (tmp_path / "journal").read_bytes()
    for end in range(size, len(content)):
        (tmp_path / "journal").write_bytes(content[:end])
        again = Journal(tmp_path / "journal")
        assert again.end == first and (tmp_path / "journal").stat().st_size == size
        again.append(b"b" * 20)
        assert (tmp_path / "journal").read_bytes() == content


def test_without_room_for_the_journal_nothing_is_changed(tmp_path):
    model, guide = pair("in_files", tmp_path)
    svi = SVI(model, guide)
    files(guide).keep(new=True)
    svi.step(points()[:20], torch.arange(20))
    before, size = weights_now(guide), (tmp_path / "rows.journal").stat().st_size

    class Full:
        def __init__(self, file):
            self.file, self.seek, self.truncate = file, file.seek, file.truncate

        def write(self, content):
            self.file.write(content[:50])
            raise OSError(errno.ENOSPC, "No space left on device")

    journal = files(guide).journal
    journal._file = Full(journal._file)
    with pytest.raises(OSError, match="No space"):
        svi.step(points()[:20], torch.arange(20))
    journal._file = journal._file.file
    assert same(before, weights_now(guide)) and (tmp_path / "rows.journal").stat().st_size == size
    svi.step(points()[:20], torch.arange(20))
    assert len(Journal(tmp_path / "rows.journal").since(Place(0, 0))) == 2


def weights_now(guide):
    return {k: v.clone() for k, v in (files(guide).moments() | {"weight": files(guide).weight}).items()}


def test_without_room_for_the_table_there_is_none(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.posix_fallocate", full)
        with pytest.raises(OSError, match="No space"):
            MeanField(N, D, folder=tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["rows.lock"]
    assert len(MeanField(N, D, folder=tmp_path).rows) == N


def test_room_is_taken_before_it_is_written_to(tmp_path):
    allocate(tmp_path / "file", 10**6)
    assert (tmp_path / "file").stat().st_blocks * 512 >= 10**6
    assert (MappedFile(tmp_path / "file", (1000, 250), torch.float32).tensor == 0).all()


@pytest.mark.parametrize("what", ["cut off", "no header", "another format", "another N", "another dtype", "list"])
def test_files_of_another_table_are_refused(what, tmp_path):
    MeanField(N, D, folder=tmp_path)
    header = json.loads((tmp_path / "rows.json").read_text())
    if what == "cut off":
        (tmp_path / "rows.weight").write_bytes(b"1234")
    said = {
        "no header": "{",
        "another format": json.dumps(header | {"format": "x"}),
        "another dtype": json.dumps(header | {"dtype": "load"}),
        "list": "[]",
    }
    (tmp_path / "rows.json").write_text(said.get(what, json.dumps(header)))
    expected = {"cut off": "has 4 bytes; expected 960", "another N": rf"holds rows \({N}, 4\) .* expected \(61, 4\)"}
    with pytest.raises(ValueError, match=expected.get(what, "is not that of a table of rows")):
        MeanField(N + (what == "another N"), D, folder=tmp_path)


def test_another_process_is_refused(tmp_path):
    guide = MeanField(N, D, folder=tmp_path)
    code = f"from pyro_dlgm import guides; guides.MeanField({N}, {D}, folder={str(tmp_path)!r})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert f"another process has the rows in {tmp_path} open" in done.stderr and len(guide.rows) == N


def test_in_a_process_a_folder_is_one_table(tmp_path):
    one, other = (MeanField(N, D, folder=tmp_path / "rows") for _ in range(2))
    assert files(one) is files(other)
    shutil.rmtree(tmp_path / "rows")
    assert files(MeanField(N, D, folder=tmp_path / "rows")) is not files(one)


# What there is not, and what there is


def test_copies_are_refused_by_name(tmp_path):
    model, guide = pair("in_files", tmp_path)
    for copied in (copy.deepcopy, pickle.dumps, lambda g: torch.save(g, io.BytesIO())):
        with pytest.raises(TypeError, match=f"the rows in {tmp_path} are not copied; expected a guide with another"):
            copied(guide)
    assert guide.to("cpu") is guide and guide.float() is guide
    for moved in (lambda: guide.double(), lambda: guide.to("meta"), guide.half):
        with pytest.raises(TypeError, match="expected rows in memory for that"):
            moved()
    with pytest.raises(ValueError, match="leave out patience, or folder="):
        fit(model, guide, points(), epochs=2, x_val=points()[:5], patience=1)
    with pytest.raises(ValueError, match="block is 0"):
        MeanField(N, D, folder=tmp_path, block=0)


def test_other_optimizers_are_refused_by_name(tmp_path):
    model, guide = pair("in_files", tmp_path)
    for other in (torch.optim.SparseAdam, torch.optim.Adam):
        with pytest.raises(TypeError, match=rf"are with {other.__name__}; expected RowAdam"):
            SVI(model, guide, [other([guide.rows.weight]), torch.optim.Adam(model.parameters())])
    stock = pyro.infer.SVI(model, guide, pyro.optim.Adam({"lr": 1e-3}), Trace_ELBO())
    with pytest.raises(RuntimeError, match="does not support sparse gradients"):
        stock.step(points()[:5], torch.arange(5))


def test_infer_gives_rows_in_memory_and_evaluation_reads(tmp_path):
    model, guide = pair("in_files", tmp_path)
    fit(model, guide, points(), epochs=2, batch_size=20, x_val=points()[:7])
    fitted = evaluate.infer(model, guide, points()[:6], max_steps=5, seed=0)
    assert type(fitted) is MeanField and not hasattr(fitted.rows, "files") and len(fitted.rows) == 6
    held = MeanField(N, D).set_rows(guide.rows.weight.detach().clone())
    scores = [evaluate.elbo(model, g, points()[:9], torch.arange(9), 3, seed=0) for g in (guide, held)]
    assert torch.equal(*scores)


def test_a_step_that_is_not_finite_leaves_all_as_it_was(tmp_path, monkeypatch):
    monkeypatch.setattr(autosave, "EVERY", 0.0)
    x, seen = points(), []

    class Watches:
        def after(self, step, record):
            seen.append(weights_now(guide))

    def spoiled(v):
        return v if len(seen) < 4 else v / 0

    model, guide = pair("in_files", tmp_path)
    with pytest.raises(FloatingPointError, match="at step 5"):
        fit(model, guide, x, epochs=3, batch_size=20, seed=0, transform=spoiled, out=tmp_path, listeners=[Watches()])
    assert same(weights_now(guide), seen[-1]) and Run(tmp_path).load()["step"] == 4


def test_rows_that_are_not_finite_are_not_saved(tmp_path, monkeypatch):
    model, guide = pair("in_files", tmp_path)
    monkeypatch.setattr(autosave, "EVERY", 0.0)
    write = RowFiles.write
    spoil = {"now": False}

    def spoiled(self, rows, old, new):
        write(self, rows, old, new | ({"weight": new["weight"] / 0} if spoil["now"] else {}))
        spoil["now"] = True

    monkeypatch.setattr(RowFiles, "write", spoiled)
    with pytest.raises(FloatingPointError, match=r"guide\.rows\.weight is not finite at step 2"):
        fit(model, guide, points(), epochs=3, batch_size=20, out=tmp_path)
    assert Run(tmp_path).load()["step"] == 1


def test_an_update_that_is_masked_leaves_rows_and_moments(tmp_path):
    model, guide = pair("in_files", tmp_path)
    svi = SVI(model, guide)
    svi.step(points()[:20], torch.arange(20))
    before = weights_now(guide)
    guide.rows(torch.arange(5)).sum().backward()
    optimizer = next(o for o in svi.optimizers if isinstance(o, RowAdam))
    optimizer.found_inf = torch.ones(())
    optimizer.step()
    assert same(before, weights_now(guide))


# Memory

MEASURED = """
import sys, threading, torch
from pyro_dlgm import DLGM, fit, guides, likelihoods, nets, priors
torch.set_num_threads(1)
def status(name):
    return int(next(line for line in open("/proc/self/status") if line.startswith(name)).split()[1]) / 1024
def train(N, folder):
    model = DLGM(priors.StandardNormal(10), likelihoods.FixedNormal(nets.Linear(10, 1)))
    guide = guides.MeanField(N, 10, folder=folder, block=2**14)
    fit(model, guide, torch.zeros(1, 1).expand(N, 1), steps=300, batch_size=2000, seed=0, out=folder)
train(4000, sys.argv[1] + "/small")
before = most = status("RssAnon")  # pages of mapped files do not count: the system keeps as many as it likes
ended = threading.Event()
def watch():
    global most
    while not ended.wait(0.002):
        most = max(most, status("RssAnon"))
watching = threading.Thread(target=watch)
watching.start()
train(2_000_000, sys.argv[1] + "/large")
ended.set()
watching.join()
print(most - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from Linux")
def test_memory_does_not_grow_with_the_table(tmp_path):
    done = subprocess.run([sys.executable, "-c", MEASURED, str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    # The table alone has 160 MB, with the optimizer's rows 488; in memory the same training takes 610. In files it
    # takes 36 to 98: what the allocator keeps of 25 that are made or written at a time.
    assert float(done.stdout.split()[-1]) < 150
    assert (tmp_path / "large" / "checkpoint.pt").stat().st_size < 20_000


def test_batches_keep_nothing_for_each_point():
    batches = Batches(torch.zeros(1, 1).expand(10**10, 1), 100)
    assert next(iter(batches)).index.max() < 10**10
    assert next(iter(Batches(torch.zeros(1, 1).expand(10**10, 1), 100, block=1000))).index.max() < 10**10
