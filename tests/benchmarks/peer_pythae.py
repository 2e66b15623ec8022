r"""Pythae's step for `peers`: `train_step` of its trainer over batches that are ready."""

import tempfile
from importlib.metadata import version

import measure
import peers
import torch
from pythae.data.datasets import BaseDataset, DatasetOutput
from pythae.models import VAE, VAEConfig
from pythae.models.base.base_utils import ModelOutput
from pythae.models.nn import BaseDecoder, BaseEncoder
from pythae.trainers import BaseTrainer, BaseTrainerConfig
from step_price import LR


class Encoder(BaseEncoder):
    r"""Creates q's mean and log-variance from the hand-written loop's layers."""

    def __init__(self, hand):
        super().__init__()
        self.body, self.head = hand.encoder, hand.head

    def forward(self, x):
        m, log_s = self.head(self.body(x)).chunk(2, -1)
        return ModelOutput(embedding=m, log_covariance=2 * log_s)


class Decoder(BaseDecoder):
    r"""Creates the probabilities of pixels."""

    def __init__(self, hand, shape):
        super().__init__()
        self.body, self.shape = hand.decoder, shape

    def forward(self, t):
        return ModelOutput(reconstruction=self.body(t).sigmoid().reshape(-1, *self.shape))


class Batches(list):
    r"""Creates a loader of batches that are ready; what remains of its data set is the number of points."""

    def __init__(self, x, steps: int, place: int):
        super().__init__(DatasetOutput(data=x[(place + k) % len(x)]) for k in range(steps))
        self.dataset = range(steps * x.shape[1])


def main() -> None:
    a = peers.asked()
    hand, x, noise, expected = peers.same_start(a)
    config = VAEConfig(input_dim=tuple(x.shape[2:]), latent_dim=noise.shape[1], reconstruction_loss="bce")
    model = VAE(config, encoder=Encoder(hand), decoder=Decoder(hand, x.shape[2:]))
    torch.manual_seed(1)  # as for the loss that is expected
    with torch.no_grad():
        off = peers.check(float(model(DatasetOutput(data=x[0])).loss), expected)
    with tempfile.TemporaryDirectory() as folder:
        settings = BaseTrainerConfig(output_dir=folder, learning_rate=LR, optimizer_cls="Adam", no_cuda=True)
        trainer = BaseTrainer(model, BaseDataset(x[0], torch.zeros(len(x[0]))), training_config=settings)
        trainer.prepare_training()
        versions = {"pythae": version("pythae"), "torch": torch.__version__}
        measure.serve(_steps(trainer, x), versions=versions, off=off)


def _steps(trainer: BaseTrainer, x: torch.Tensor):
    done = 0

    def steps(count: int) -> float:
        nonlocal done
        trainer.train_loader = Batches(x, count, done)
        done += count
        return float(trainer.train_step(epoch=1))

    return steps


if __name__ == "__main__":
    main()
