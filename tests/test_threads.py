"""Threads: generators, train/eval flags and Pyro's handlers are global, so one evaluates at a time."""

import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import cases
import pytest
import torch

from pyro_dlgm import evaluate, fit
from pyro_dlgm.evaluate.quiet import quiet
from pyro_dlgm.seeding import seeds


@pytest.fixture(autouse=True)
def often():
    r"""Threads change often."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(interval)


def test_evaluation_in_threads_gives_the_numbers_of_one_and_leaves_the_flags():
    model, x = cases.conv(), torch.rand(12, 1, 5, 7)
    guide = cases.amortized(model)
    scores = [
        lambda seed: evaluate.elbo(model, guide, x, num_samples=20, seed=seed),
        lambda seed: evaluate.iwae(model, guide, x, num_samples=20, seed=seed),
        lambda seed: evaluate.reconstruct(model, guide, x, num_samples=5, seed=seed),
        lambda seed: torch.tensor(seeds(3, seed)),
    ]
    jobs = [(score, seed) for seed in range(8) for score in scores]
    alone = [score(seed) for score, seed in jobs]
    state = torch.get_rng_state()
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda job: job[0](job[1]), jobs))
    # A thread of the pool may give its sums to another number of threads.
    torch.testing.assert_close(found, alone)
    assert all(m.training for program in (model, guide) for m in program.modules())
    assert torch.equal(state, torch.get_rng_state())


def test_quiet_in_two_threads_leaves_the_flags_of_before():
    model, inside, left = cases.conv(), threading.Event(), threading.Event()

    def second():
        inside.wait(5)
        with quiet(model):
            left.wait(5)

    other = threading.Thread(target=second)
    other.start()
    with quiet(model):
        inside.set()
        other.join(0.2)  # without a lock it has gone in by now, and comes out last
        with quiet(model):  # the same thread goes in twice
            pass
        assert not model.training
    left.set()
    other.join()
    assert model.training


def test_evaluation_beside_a_training_in_another_thread_is_an_error_and_changes_nothing():
    model, x, said = cases.conv(), torch.rand(12, 1, 5, 7), []

    class Asks:
        def after(self, step, record):
            thread = threading.Thread(target=self.ask)
            thread.start()
            thread.join()

        def ask(self):
            for what in (lambda: evaluate.elbo(model, guide, x, num_samples=2), lambda: fit(model, guide, x, steps=1)):
                try:
                    what()
                except RuntimeError as error:
                    said.append(str(error))

    trained = []
    for listeners in ([], [Asks()]):
        torch.manual_seed(0)
        model = cases.conv()
        guide = cases.amortized(model)
        fit(model, guide, x, epochs=2, batch_size=6, seed=1, listeners=listeners)
        trained.append(cases.tensors(model, guide))
    assert cases.same(*trained)
    assert len(said) == 8 and all("a training is in progress in another thread" in words for words in said)
    assert evaluate.elbo(model, guide, x, num_samples=2).isfinite().all()  # it is over


def test_a_training_that_failed_lets_others_go_on():
    model = cases.conv()
    with pytest.raises(ValueError):
        fit(model, cases.amortized(model), torch.rand(3, 2), epochs=1)
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(seeds, 2, 0).result(5) == seeds(2, 0)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_process_forked_while_another_thread_evaluates_is_free():
    code = """if True:
        import os, threading
        from pyro_dlgm.seeding import alone, forked
        inside, out = threading.Event(), threading.Event()
        def hold():
            with alone(training=True):
                inside.set()
                out.wait()
        thread = threading.Thread(target=hold)
        thread.start()
        inside.wait()
        child = os.fork()
        if child == 0:
            with forked(0):
                os._exit(7)
        status = os.waitpid(child, 0)[1]
        out.set()
        print(os.waitstatus_to_exitcode(status))
    """
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == "7\n", done.stderr
