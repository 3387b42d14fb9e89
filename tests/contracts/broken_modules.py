"""Encoders and architectures with one defect each, and some that are odd and sound."""

from __future__ import annotations

import itertools
import random

import torch
from torch import nn

from mtlkit import Architecture, Encoder, FeatureSpec, InputSpec
from mtlkit.encoders.mlp import MLP
from mtlkit.encoders.tabular import Tabular
from mtlkit.encoders.transformer import Transformer

COUNT = itertools.count()


class PlainEncoder(MLP):
    """A sound encoder; a defect is mixed into what is done at its beginning, before it, and after it."""

    def __init__(self, inputs, *, layers: tuple[int, ...] = (6, 5)) -> None:
        super().__init__(inputs, layers=layers, activation="tanh")
        self.begin(5)

    def begin(self, width):
        pass

    def before(self, rows):
        return rows

    def after(self, features):
        return features

    def stages(self):
        return ()

    def forward(self, inputs):
        hidden = self.before(inputs)
        for layer in self.layers:
            hidden = layer(hidden)
        return self.after(hidden)


class PlainArchitecture(Architecture):
    """A sound architecture on encoders of flat features: one encoder, and for each task a scale of its own."""

    def __init__(self, make_encoder, n_tasks) -> None:
        super().__init__()
        self.encoder = make_encoder()
        self.features = self.encoder.features
        if len(self.features.shape) != 1:
            raise ValueError(f"features must be flat; received {self.features.shape}")
        self.scales = nn.ParameterList(torch.ones(self.features.size) for _ in range(n_tasks))
        self.begin(self.features.size)

    def begin(self, width):
        pass

    def before(self, rows):
        return rows

    def after(self, features):
        return features

    def forward(self, inputs, tasks):
        features = self.after(self.encoder(self.before(inputs)))
        return [features * self.scales[task] for task in tasks]

    def shared_parameters(self):
        return list(self.encoder.parameters())

    def last_shared_layer(self):
        return self.encoder.last_layer()


# Defects that either may have.


class Squeezes:
    def after(self, features):
        return features.squeeze(0)


class TakesLogarithms:
    def after(self, features):
        return features.log()


class StaysInTrainingMode:
    def train(self, mode=True):  # noqa: FBT002 - torch's own signature
        self.training = mode
        return self


class Remembers:
    calls = 0

    def after(self, features):
        self.calls += not self.training
        return features + 1e-6 * self.calls


class DrawsInEvaluation:
    def after(self, features):
        torch.rand(())
        return features


class DropsInEvaluation:
    def after(self, features):
        return nn.functional.dropout(features, 0.5)


class CentresTheBatch:
    def after(self, features):
        return features - features.mean(0)


class WritesToItsRows:
    def before(self, rows):
        return rows.clamp_(min=0)


class HidesState:
    def begin(self, width):
        self.mask = torch.rand(width)

    def after(self, features):
        return features * self.mask


class SeedsItself:
    def begin(self, width):
        generator = torch.Generator().manual_seed(next(COUNT))
        with torch.no_grad():
            next(self.parameters()).normal_(generator=generator)


class DrawsFromPython:
    def begin(self, width):
        random.random()  # noqa: S311 - the generator that is watched


class SeedsTorch:
    def begin(self, width):
        torch.manual_seed(0)


class StaysInFloat32:
    def after(self, features):
        return features.float()


class HoldsAClosure:
    def begin(self, width):
        self.closure = lambda features: features + next(self.parameters()).sum()

    def after(self, features):
        return self.closure(features)


class CannotBeCopied:
    def __deepcopy__(self, memo):
        raise TypeError("cannot pickle '_thread.lock' object")


class Prints:
    def after(self, features):
        print(f"features: {tuple(features.shape)}")  # noqa: T201
        return features


# Encoders.


class FailsForImages(PlainEncoder):
    def __init__(self, inputs) -> None:
        super().__init__(inputs)
        if len(inputs.shape) > 1:
            raise KeyError("image")


class FailsWhenRun(PlainEncoder):
    def before(self, rows):
        if rows.ndim > 2:
            raise RuntimeError("expected a 2D tensor")
        return rows


class RefusesAll(PlainEncoder):
    def __init__(self, inputs) -> None:
        raise ValueError(f"rows must be graphs; received {inputs.shape}")


class RefusesInSilence(PlainEncoder):
    def __init__(self, inputs) -> None:
        if len(inputs.shape) > 1:
            raise ValueError
        super().__init__(inputs)


class PromisesMore(PlainEncoder):
    def begin(self, width):
        self.features = FeatureSpec((width + 1,))


class PromisesNothing(PlainEncoder):
    def begin(self, width):
        self.features = (width,)


class MakesIntegers(PlainEncoder):
    def after(self, features):
        return features.long()


class ReturnsTwo(PlainEncoder):
    def after(self, features):
        return features, features


class CentresInTraining(PlainEncoder):
    row_by_row = True

    def after(self, features):
        return features - features.mean(0) if self.training else features


class DividesByItsRows(PlainEncoder):
    row_by_row = True

    def after(self, features):
        return features / len(features) if self.training else features


class CountsItsPasses(PlainEncoder):
    row_by_row = True

    def begin(self, width):
        self.register_buffer("passes", torch.zeros(()))

    def after(self, features):
        if self.training:
            self.passes += 1
        return features


class HasAnIdleParameter(PlainEncoder):
    def begin(self, width):
        self.idle = nn.Parameter(torch.zeros(width))


class HasNoGradient(PlainEncoder):
    def after(self, features):
        return features * 0 + 1


class NamesAnotherLayer(PlainEncoder):
    def last_layer(self):
        return nn.Linear(2, 2)


class NamesAnIdleLayer(PlainEncoder):
    def begin(self, width):
        self.head = nn.Linear(width, 2)


class NamesALayerWithoutWeight(PlainEncoder):
    def last_layer(self):
        return self.layers[-1][-1]


class NamesAFrozenLayer(PlainEncoder):
    def begin(self, width):
        self.layers[1].requires_grad_(requires_grad=False)


class PromisesAnotherPart(Encoder):
    """Features of two names, one of which is of another shape than it says."""

    def __init__(self, inputs) -> None:
        super().__init__()
        if len(inputs.shape) != 1 or inputs.categories:
            raise ValueError(f"rows must be vectors; received {inputs}")
        self.layer = nn.Linear(inputs.size, 5)
        self.features = FeatureSpec(parts={"coarse": FeatureSpec((2,)), "fine": FeatureSpec((4,))})

    def forward(self, inputs):
        hidden = torch.tanh(self.layer(inputs))
        return {"fine": hidden[:, 2:], "coarse": hidden[:, :2]}


class NamesOtherParts(PromisesAnotherPart):
    def forward(self, inputs):
        return {"coarse": self.layer(inputs)[:, :2]}


class WritesToAPart(Tabular):
    def context(self, inputs):
        if not isinstance(inputs, torch.Tensor):
            inputs["categorical"].clamp_(max=1)


class LooksAtOtherTexts(Transformer):
    """Tokens that are the most frequent of the batch count as padding."""

    def context(self, inputs):
        return inputs == inputs.mode(0).values.mode().values if inputs.ndim == 2 else None


class LearnsInSecret(PlainEncoder):
    mean = 0.0

    def prepare(self, rows):
        self.mean = rows.mean(0)

    def before(self, rows):
        return rows - self.mean


class WritesToTrainingRows(PlainEncoder):
    def __init__(self, inputs) -> None:
        super().__init__(inputs)
        self.register_buffer("mean", torch.zeros(inputs.shape))

    def prepare(self, rows):
        self.mean.copy_(rows.mean(0))
        rows -= self.mean

    def before(self, rows):
        return rows - self.mean


# Encoders of stages.


class Staged(MLP):
    """A sound chain of three stages."""

    def __init__(self, inputs) -> None:
        super().__init__(inputs, layers=(5, 5, 4), activation="tanh")


class SkipsItsLastStage(Staged):
    def forward(self, inputs):
        for index in range(3):
            inputs = self.through(index, inputs, None)
        return 2 * inputs


class PassesPairs(Staged):
    def through(self, index, hidden, context):
        hidden = super().through(index, hidden if index != 1 else hidden[0], context)
        return (hidden, hidden) if index == 0 else hidden


class SaysOfNoModules(Staged):
    def stages(self):
        return ["layers.0", "layers.1"]

    def forward(self, inputs):
        for layer in self.layers:
            inputs = layer(inputs)
        return inputs

    def levels(self):
        return list(self.layers)


class HoldsAParameterBeside(Staged):
    def __init__(self, inputs) -> None:
        super().__init__(inputs)
        self.scale = nn.Parameter(torch.full((4,), 2.0))

    def through(self, index, hidden, context):
        hidden = super().through(index, hidden, context)
        return hidden * self.scale if index == 2 else hidden


class TiesItsStages(Staged):
    def __init__(self, inputs) -> None:
        super().__init__(inputs)
        self.layers.insert(2, self.layers[1])


class LevelsOfHalf(Staged):
    def levels(self):
        return list(self.layers)[1:]


# Encoders that are odd and sound.


class LooksUp(Encoder):
    """Rows of whole numbers, such as words."""

    def __init__(self, inputs, *, words: int = 10) -> None:
        super().__init__()
        if len(inputs.shape) != 1:
            raise ValueError(f"lookup takes rows of words; received {inputs.shape}")
        self.table = nn.Embedding(words, 4)
        self.features = FeatureSpec((inputs.size, 4))

    def forward(self, inputs):
        return self.table(inputs)


class Attends(Encoder):
    """A transformer over a series, with dropout."""

    def __init__(self, inputs) -> None:
        super().__init__()
        if len(inputs.shape) != 2:
            raise ValueError(f"attention takes series; received {inputs.shape}")
        layer = nn.TransformerEncoderLayer(inputs.shape[1], 2, 16, dropout=0.2, batch_first=True)
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.features = FeatureSpec(inputs.shape)

    def forward(self, inputs):
        return self.layers(inputs)


class KeepsStatistics(Encoder):
    """Batch normalisation that is frozen, and a layer that starts from zero."""

    def __init__(self, inputs) -> None:
        super().__init__()
        if inputs.parts or inputs.categories:
            raise ValueError(f"rows must be of numbers; received {inputs}")
        self.norm = nn.BatchNorm1d(inputs.size).requires_grad_(requires_grad=False)
        self.first, self.zero = nn.Linear(inputs.size, 5), nn.Linear(5, 5)
        nn.init.zeros_(self.zero.weight)
        self.features = FeatureSpec((5,))

    def train(self, mode=True):  # noqa: FBT002 - torch's own signature
        super().train(mode)
        self.norm.eval()
        return self

    def forward(self, inputs):
        hidden = self.first(self.norm(inputs.flatten(1)))
        return hidden + self.zero(hidden)


class MakesScales(PromisesAnotherPart):
    """Features of two names."""

    def __init__(self, inputs) -> None:
        super().__init__(inputs)
        self.features = FeatureSpec(parts={"coarse": FeatureSpec((2,)), "fine": FeatureSpec((3,))})


class IsFrozen(PlainEncoder):
    """A pretrained encoder, say."""

    def begin(self, width):
        self.requires_grad_(requires_grad=False)


class SkipsLayers(PlainEncoder):
    """A layer that is left out of half the training passes."""

    def begin(self, width):
        self.sometimes = nn.Linear(width, width)
        self.last = nn.Linear(width, width)

    def after(self, features):
        if not self.training or torch.rand(()) < 0.5:
            features = features + self.sometimes(features)
        return self.last(features)


class CentresAndSaysNothing(CentresInTraining):
    """Nothing is said by a class derived from one that does."""


class DropsFeatures(PlainEncoder):
    """Its rows are apart, each with features of its own dropped."""

    row_by_row = True

    def after(self, features):
        return nn.functional.dropout(features, training=self.training)


# Architectures.


class RefusesOneTask(PlainArchitecture):
    def __init__(self, make_encoder, n_tasks) -> None:
        super().__init__(make_encoder, n_tasks)
        if n_tasks < 2:
            raise ValueError(f"there is nothing to share among {n_tasks} tasks")


class FailsForThreeTasks(PlainArchitecture):
    def __init__(self, make_encoder, n_tasks) -> None:
        super().__init__(make_encoder, n_tasks)
        if n_tasks > 2:
            raise KeyError("third")


class RefusesEveryEncoder(PlainArchitecture):
    def __init__(self, make_encoder, n_tasks) -> None:
        raise ValueError("encoders must be recurrent")


class AsksForMore(PlainArchitecture):
    def __init__(self, make_encoder, n_tasks, depth) -> None:
        super().__init__(make_encoder, n_tasks)


class DropsAnEncoder(PlainArchitecture):
    def __init__(self, make_encoder, n_tasks) -> None:
        super().__init__(make_encoder, n_tasks)
        self.spares = [make_encoder()]


class MakesItsOwnEncoder(PlainArchitecture):
    def __init__(self, make_encoder, n_tasks) -> None:
        super().__init__(lambda: MLP(InputSpec((4,)), layers=(5,)), n_tasks)


class PromisesMoreToHeads(PlainArchitecture):
    def begin(self, width):
        self.features = FeatureSpec((width + 1,))


class ReturnsOneTensor(PlainArchitecture):
    def forward(self, inputs, tasks):
        return torch.stack(super().forward(inputs, tasks))


class ReturnsAllTasks(PlainArchitecture):
    def forward(self, inputs, tasks):
        return super().forward(inputs, range(len(self.scales)))


class GoesByPlace(PlainArchitecture):
    def forward(self, inputs, tasks):
        return super().forward(inputs, range(len(tasks)))


class AnswersInFloat32(PlainArchitecture):
    def forward(self, inputs, tasks):
        return [each.float() for each in super().forward(inputs, tasks)]


class EncodesAgain(PlainArchitecture):
    def begin(self, width):
        self.scales = nn.ParameterList()

    def forward(self, inputs, tasks):
        return [self.encoder(inputs) for _ in tasks]


class CountsTwice(PlainArchitecture):
    def shared_parameters(self):
        return 2 * super().shared_parameters()


class CountsData(PlainArchitecture):
    def shared_parameters(self):
        return [parameter.data for parameter in super().shared_parameters()]


class CentresTheTasks(PlainArchitecture):
    row_by_row = True

    def forward(self, inputs, tasks):
        made = super().forward(inputs, tasks)
        return [z - z.mean(0) for z in made] if self.training else made


class SharesNothing(PlainArchitecture):
    def shared_parameters(self):
        return []


class CountsTooMany(PlainArchitecture):
    def shared_parameters(self):
        return list(self.parameters())


class CountsTooFew(PlainArchitecture):
    def shared_parameters(self):
        return super().shared_parameters()[2:]


class DetachesATask(PlainArchitecture):
    def forward(self, inputs, tasks):
        features = self.encoder(inputs)
        return [(features.detach() if task == 1 else features) * self.scales[task] for task in tasks]


class NamesAnotherSharedLayer(PlainArchitecture):
    def last_shared_layer(self):
        return nn.Linear(2, 2)


class NamesATasksLayer(PlainArchitecture):
    def begin(self, width):
        self.own = nn.Linear(width, width)

    def forward(self, inputs, tasks):
        received = super().forward(inputs, tasks)
        return [self.own(each) if task == 0 else each for task, each in zip(tasks, received, strict=True)]

    def last_shared_layer(self):
        return self.own


class NamesEachTasksLayer(PlainArchitecture):
    def begin(self, width):
        self.own = nn.ModuleList(nn.Linear(width, width) for _ in self.scales)

    def forward(self, inputs, tasks):
        received = super().forward(inputs, tasks)
        return [self.own[task](each) for task, each in zip(tasks, received, strict=True)]

    def last_shared_layer(self):
        return list(self.own)


class NamesNoLayer(PlainArchitecture):
    def last_shared_layer(self):
        return []


class HasNoGradientAtZero(PlainArchitecture):
    def after(self, features):
        return features + (features * 0).sqrt()


class AveragesTwo(PlainArchitecture):
    """The mean of two encoders, whose last layers stand side by side; it is told of the rows."""

    def __init__(self, make_encoder, n_tasks, inputs) -> None:
        super().__init__(make_encoder, n_tasks)
        self.other = make_encoder()
        self.shift = torch.zeros(inputs.shape)

    def forward(self, inputs, tasks):
        features = (self.encoder(inputs) + self.other(inputs - self.shift.to(inputs))) / 2
        return [features * self.scales[task] for task in tasks]

    def shared_parameters(self):
        return [*self.encoder.parameters(), *self.other.parameters()]

    def last_shared_layer(self):
        return [self.encoder.last_layer(), self.other.last_layer()]


class SharesSoftly(Architecture):
    """An encoder for each task, mixed at the features with learned weights: cross-stitched, and computed at once."""

    def __init__(self, make_encoder, n_tasks, *, own: float = 0.9) -> None:
        super().__init__()
        self.encoders = nn.ModuleList([make_encoder() for _ in range(n_tasks)])
        self.last = nn.Linear(self.encoders[0].features.shape[-1], 4)
        self.features = FeatureSpec((*self.encoders[0].features.shape[:-1], 4))
        others = (1 - own) / max(1, n_tasks - 1)
        self.rows = nn.ParameterList(
            torch.tensor([own if i == j else others for j in range(n_tasks)]) for i in range(n_tasks)
        )

    def forward(self, inputs, tasks):
        each = torch.stack([encoder(inputs) for encoder in self.encoders])  # [T, B, *]
        mixed = torch.einsum("ij,j...->i...", torch.stack(list(self.rows)), each)
        return list(self.last(mixed)[list(tasks)].unbind())

    def shared_parameters(self):
        return [*self.encoders.parameters(), *self.last.parameters()]

    def last_shared_layer(self):
        return self.last
