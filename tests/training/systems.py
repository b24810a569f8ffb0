"""Small tasks in the shape of the systems that train here: Kronos in two stages, EmSHAP's two networks, a table."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from presurge.training.task import LOSS, WEIGHT, Epoch, ParameterGroup, Task

BITS = 6


def walks(rows: int, length: int, seed: int = 0) -> torch.Tensor:
    """Random walks of two values, [rows, length, 2]."""
    steps = np.random.default_rng(seed).normal(size=(rows, length, 2)).cumsum(axis=1)
    return torch.from_numpy(((steps - steps.mean()) / steps.std()).astype(np.float32))


class Tokenizer(nn.Module):
    """Values to bits and back, with a coarse and a full reconstruction; its loss may be negative."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.full, self.coarse = nn.Linear(2, BITS), nn.Linear(BITS, 2), nn.Linear(BITS // 2, 2)

    def bits(self, x: torch.Tensor) -> torch.Tensor:
        """+1 or -1, the gradient passed straight through."""
        z = nn.functional.normalize(self.embed(x), dim=-1)
        return z + (torch.where(z > 0, 1.0, -1.0) / BITS**0.5 - z).detach()

    def tokens(self, x: torch.Tensor) -> torch.Tensor:
        """Numbers of the codes."""
        return ((self.bits(x) > 0).long() << torch.arange(BITS)).sum(-1)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        bits = self.bits(x)
        full = (self.full(bits) - x).square().mean()
        coarse = (self.coarse(bits[..., : BITS // 2]) - x).square().mean()
        spread = bits.mean((0, 1)).square().sum()
        return {LOSS: (full + coarse + 0.1 * spread) / 2 - 1.0, "full": full, "coarse": coarse}


class Decoder(nn.Module):
    """Forecasts the next token of a frozen tokenizer; half of the inputs are sampled, as in Kronos."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        super().__init__()
        self.tokenizer = tokenizer.requires_grad_(False)
        self.embedding, self.norm, self.head = (
            nn.Embedding(2**BITS, 16),
            nn.LayerNorm(16),
            nn.Linear(16, 2**BITS),
        )

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        tokens = self.tokenizer.tokens(x)
        logits = self.head(self.norm(self.embedding(tokens[:, :-1])))
        sampled = torch.multinomial(logits.detach().softmax(-1).flatten(0, 1), 1).view(tokens[:, 1:].shape)
        again = self.head(self.norm(self.embedding(sampled)))
        first, second = (
            nn.functional.cross_entropy(one.flatten(0, 1), tokens[:, 1:].flatten()) for one in (logits, again)
        )
        return {LOSS: (first + second) / 2, "first": first, "second": second}


class StageTask(Task):
    """One stage of two: random windows drawn in every epoch, the draw of a batch its own."""

    batches_per_epoch = 6

    def __init__(self, module: nn.Module) -> None:
        self.module, self.x = module, walks(64, 20)

    def batch(self, epoch: Epoch, index: int) -> torch.Tensor:
        rows = epoch.share(epoch.rng(index).integers(0, 48, 16))
        return self.x[rows]

    def validation_batches(self, rank: int, world: int) -> Iterator[tuple[torch.Tensor, int]]:
        own = self.x[48:][rank::world]
        yield own, len(own)

    def parameter_groups(self) -> Sequence[ParameterGroup]:
        named = [(name, p) for name, p in self.module.named_parameters() if p.requires_grad]
        plain = [p for name, p in named if name.endswith("bias") or "norm" in name]
        decayed = [p for _, p in named if not any(p is one for one in plain)]
        return [
            ParameterGroup(name="weights", parameters=decayed),
            ParameterGroup(name="plain", parameters=plain, weight_decay=0.0, learning_rate=0.02),
        ]


class Masked(NamedTuple):
    """Rows of a table and which of their features are seen."""

    x: torch.Tensor
    seen: torch.Tensor


class EnergyModel(nn.Module):
    """A proposal and an energy network that learn together, each from the features that the other side does not see."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.proposal = nn.Sequential(nn.Linear(2 * features, 16), nn.Tanh(), nn.Linear(16, 2 * features))
        self.energy = nn.Sequential(nn.Linear(2 * features, 16), nn.Tanh(), nn.Linear(16, features))

    def forward(self, batch: Masked) -> dict[str, torch.Tensor]:
        x, seen = batch
        unseen = 1 - seen
        inputs = torch.cat([x * seen, seen], 1)
        mean, log_width = self.proposal(inputs).chunk(2, 1)
        proposal = ((x - mean) / log_width.exp()).square() / 2 + log_width
        energy = (self.energy(inputs) - (x - mean.detach())).square()
        count = unseen.sum()
        parts = {
            name: (v * unseen).sum() / count.clamp(min=1)
            for name, v in (("proposal", proposal), ("energy", energy))
        }
        return {LOSS: parts["proposal"] + parts["energy"], WEIGHT: count, **parts}


class MaskTask(Task):
    """Masks drawn for a whole batch, ever more features unseen; so shares and batches weigh unequally."""

    def __init__(self, batch_size: int = 25, rows: int = 100) -> None:
        rng = np.random.default_rng(3)
        self.x = torch.from_numpy(rng.normal(size=(rows + 40, 5)).astype(np.float32).cumsum(1))
        self.rows, self.size = rows, batch_size
        self.batches_per_epoch = -(-rows // batch_size)
        torch.manual_seed(5)
        self.module = EnergyModel(5)

    def batch(self, epoch: Epoch, index: int) -> Masked | None:
        order = epoch.rng().permutation(self.rows)
        seen = np.random.default_rng([epoch.number, 9]).random((self.rows, 5)) > 0.2 + 0.2 * epoch.number
        rows = epoch.share(order[index * self.size : (index + 1) * self.size])
        return Masked(self.x[rows], torch.from_numpy(seen[rows].astype(np.float32))) if len(rows) else None

    def validation_batches(self, rank: int, world: int) -> Iterator[tuple[Masked, float]]:
        x = self.x[self.rows :][rank::world]
        seen = (torch.rand(40, 5) > 0.5).float()[rank::world]
        yield Masked(x, seen), float((1 - seen).sum())

    def parameter_groups(self) -> Sequence[ParameterGroup]:
        return [
            ParameterGroup(
                name="proposal", parameters=list(self.module.proposal.parameters()), betas=(0.8, 0.95)
            ),
            ParameterGroup(
                name="energy",
                parameters=list(self.module.energy.parameters()),
                learning_rate=0.003,
                weight_decay=0.1,
                eps=1e-6,
            ),
        ]


class TableModel(nn.Module):
    """A network with BatchNorm, and a branch that no batch ever uses."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(features, 8), nn.BatchNorm1d(8), nn.Linear(8, 1)
        self.unused = nn.Linear(3, 3)

    def values(self, x: torch.Tensor) -> torch.Tensor:
        """One number a row."""
        return self.last(self.norm(self.first(x)).relu())[:, 0]

    def forward(self, batch: dict[str, torch.Tensor]) -> dict[str, Any]:
        error = self.values(batch["x"]) - batch["y"]
        noise = float(np.random.normal()) * 1e-4  # noqa: NPY002 - NumPy's own generator must resume, too
        return {LOSS: error.square().mean() + noise, WEIGHT: len(error)}


class TableTask(Task):
    """Batches from an iterator that keeps its place; watched by a median, which is no mean over batches."""

    batches_per_epoch: int | None = None

    def __init__(self, batches: int = 6) -> None:
        rng = np.random.default_rng(4)
        self.x = rng.normal(size=(240, 4)).astype(np.float32)
        self.y = np.sin(self.x.sum(1)).astype(np.float32)
        self.batches = batches
        torch.manual_seed(6)
        self.module = TableModel(4)
        self.generator = np.random.default_rng(8)

    def train_batches(self, epoch: Epoch) -> Iterator[dict[str, torch.Tensor]]:
        for _ in range(epoch.skip, self.batches):
            rows = epoch.share(self.generator.integers(0, 200, 22))
            yield {"x": torch.from_numpy(self.x[rows]), "y": torch.from_numpy(self.y[rows])}

    def state(self) -> dict[str, Any]:
        state = self.generator.bit_generator.state
        return {**state, "state": {key: str(value) for key, value in state["state"].items()}}

    def load_state(self, state: dict[str, Any]) -> None:
        numbers = {key: int(value) for key, value in state["state"].items()}
        self.generator.bit_generator.state = {**state, "state": numbers}

    def validation_metrics(self, device: torch.device) -> dict[str, float]:
        error = self.module.values(torch.from_numpy(self.x[200:]).to(device)).cpu().numpy() - self.y[200:]
        return {
            "median": float(np.median(np.abs(error))),
            "agreement": float(np.corrcoef(error, self.y[200:])[0, 1]),
        }
