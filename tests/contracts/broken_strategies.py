"""Strategies with one defect each, and some that are odd and sound."""

from __future__ import annotations

import itertools
import random

import torch
from torch import nn

from mtlkit import Needs, Over, Strategy, Weighting

COUNT = itertools.count()


class Plain(Strategy):
    """A sound strategy, a weight of 1 for each task."""

    def __init__(self, n_tasks) -> None:
        super().__init__(n_tasks)
        self.register_buffer("ones", torch.ones(n_tasks, dtype=torch.float64))
        self.begin()

    def begin(self):
        pass

    def weights(self, losses, gramian=None, tasks=None):
        return Weighting(self.ones[self._present(tasks, losses)])


class Measured(Plain):
    """A sound strategy that is given the Gram matrix, and does nothing with it."""

    needs = Needs.GRAMIAN
    over = Over.FEATURES


class Learned(Plain):
    """A sound strategy that learns a number for each task."""

    def begin(self):
        self.scales = nn.ParameterList(torch.zeros((), dtype=torch.float64) for _ in range(self.n_tasks))

    def weights(self, losses, gramian=None, tasks=None):
        s = torch.stack([self.scales[task] for task in self._present(tasks, losses).tolist()])
        return Weighting(torch.exp(-s), s.sum())


class NeedsNoPlace(Measured):
    over = None


class PlacesNoNeed(Plain):
    over = Over.FEATURES


class NeedsSomethingElse(Plain):
    needs = "gramian"


class AnswersInFloat32(Plain):
    def weights(self, losses, gramian=None, tasks=None):
        return Weighting(super().weights(losses, gramian, tasks).weights.float())


class PenalisesEach(Learned):
    def weights(self, losses, gramian=None, tasks=None):
        answer = super().weights(losses, gramian, tasks)
        return Weighting(answer.weights, answer.penalty.expand(1))


class WeighsNothing(Plain):
    def weights(self, losses, gramian=None, tasks=None):
        answer = super().weights(losses, gramian, tasks)
        return Weighting(answer.weights * (len(losses) != 2))


class AnswersATensor(Plain):
    def weights(self, losses, gramian=None, tasks=None):
        return super().weights(losses, gramian, tasks).weights


class AnswersForOneMore(Plain):
    def weights(self, losses, gramian=None, tasks=None):
        return Weighting(torch.ones(len(losses) + 1, dtype=torch.float64))


class WeighsHeadsInfinitely(Plain):
    def weights(self, losses, gramian=None, tasks=None):
        answer = super().weights(losses, gramian, tasks)
        return answer._replace(head_weights=answer.weights / 0)


class DirectsHalf(Plain):
    needs = Needs.JACOBIAN
    over = Over.PARAMETERS

    def combine(self, losses, jacobian, tasks=None):
        return self.weights(losses, None, tasks)._replace(direction=jacobian.sum(0).chunk(2)[0])


class WeighsNoTasks(Plain):
    def __init__(self, n_tasks) -> None:
        nn.Module.__init__(self)
        self.n_tasks = n_tasks
        self.register_buffer("ones", torch.ones(n_tasks, dtype=torch.float64))


class FailsWithoutTasks(Plain):
    def __init__(self, n_tasks) -> None:
        self.share = 1 / n_tasks
        super().__init__(n_tasks)


class WeighsAbsentTasks(Plain):
    def weights(self, losses, gramian=None, tasks=None):
        return Weighting(self.ones.clone())


class StepsByItself(Plain):
    """Takes a step of its own as soon as there is a gradient, which is before its answer is used."""

    def begin(self):
        self.scales = nn.Parameter(self.ones.clone())
        self.scales.register_post_accumulate_grad_hook(self.step)

    @torch.no_grad()
    def step(self, scales):
        if self.training:
            scales -= 0.001 * scales.grad.sign()
            scales.grad = None

    def weights(self, losses, gramian=None, tasks=None):
        return Weighting(self.scales if tasks is None else self.scales[tasks])

    def parameter_groups(self):
        return []


class PrefersTheFirst(Plain):
    def begin(self):
        self.ones[0] = 2


class GoesByPlace(Strategy):
    def __init__(self, n_tasks, loss_kinds) -> None:
        super().__init__(n_tasks)
        self.register_buffer("factors", torch.tensor([float(len(kind)) for kind in loss_kinds]).double())

    def weights(self, losses, gramian=None, tasks=None):
        return Weighting(self.factors[: len(losses)].clone())


class NeedsCompany(Plain):
    def weights(self, losses, gramian=None, tasks=None):
        return Weighting(1 - torch.softmax(losses, 0))


class RefusesOneTask(Plain):
    def __init__(self, n_tasks) -> None:
        super().__init__(n_tasks)
        if n_tasks == 1:
            raise ValueError("one task cannot be balanced")


class DividesByDifferences(Plain):
    def weights(self, losses, gramian=None, tasks=None):
        others = losses[:, None] == losses
        return Weighting(
            torch.where((others.sum(1) == 1) | losses.frac().eq(0) | (losses < 0.1), 1.0, torch.inf).double()
        )


class DividesByTheSum(Measured):
    def weights(self, losses, gramian=None, tasks=None):
        total = gramian.sum() if gramian.any() else losses.new_ones(())
        return Weighting(torch.ones_like(losses) / total)


class DividesByLosses(Plain):
    def weights(self, losses, gramian=None, tasks=None):
        return Weighting(1 / losses)


class RemembersInfinity(Plain):
    def begin(self):
        self.register_buffer("rates", torch.ones_like(self.ones))

    def weights(self, losses, gramian=None, tasks=None):
        if self.training:
            self.rates[self._present(tasks, losses)] = 1 / losses
        return super().weights(losses, gramian, tasks)


class LeavesFloat32(Measured):
    def weights(self, losses, gramian=None, tasks=None):
        squares = gramian.diagonal()
        return Weighting(torch.where(squares > 0, 1 / squares, 1.0))


class CountsInPython(Plain):
    def begin(self):
        self.steps = 0

    def weights(self, losses, gramian=None, tasks=None):
        self.steps += self.training
        return Weighting((1 + 1 / (1 + self.steps)) * super().weights(losses, gramian, tasks).weights)


class HidesWhatMovesIt(Plain):
    """Steps on a count that no answer shows."""

    def begin(self):
        self.steps = 0
        self.register_buffer("seen", torch.zeros((), dtype=torch.float64))

    def weights(self, losses, gramian=None, tasks=None):
        if self.training:
            self.steps += 1
            self.seen.fill_(self.steps)
        return super().weights(losses, gramian, tasks)


class KeepsObjects(Plain):
    def get_extra_state(self):
        return 1j

    def set_extra_state(self, state):
        pass


class RemembersInFloat32(Plain):
    def begin(self):
        self.register_buffer("mean", torch.zeros(self.n_tasks))


class ForgetsAll(Plain):
    def begin(self):
        self.register_buffer("mean", torch.zeros_like(self.ones))

    def weights(self, losses, gramian=None, tasks=None):
        if self.training:
            self.mean *= 0.9
            self.mean[self._present(tasks, losses)] += 0.1 * losses
        return super().weights(losses, gramian, tasks)


class LearnsInOnePiece(Plain):
    def begin(self):
        self.scales = nn.Parameter(torch.zeros(self.n_tasks, dtype=torch.float64))

    def weights(self, losses, gramian=None, tasks=None):
        s = self.scales[self._present(tasks, losses)]
        return Weighting(torch.exp(-s), s.sum())


class LearnsFromAbsentTasks(Learned):
    def weights(self, losses, gramian=None, tasks=None):
        answer = super().weights(losses, gramian, tasks)
        return Weighting(answer.weights, torch.stack(list(self.scales)).sum())


class CountsEvaluations(Plain):
    def begin(self):
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def weights(self, losses, gramian=None, tasks=None):
        self.steps += 1
        return super().weights(losses, gramian, tasks)


class WritesToLosses(Plain):
    def weights(self, losses, gramian=None, tasks=None):
        losses.clamp_(max=1.0)
        return super().weights(losses, gramian, tasks)


class WritesToTheGramian(Measured):
    def weights(self, losses, gramian=None, tasks=None):
        gramian.diagonal().add_(1e-8)
        return super().weights(losses, gramian, tasks)


class DrawsGlobally(Plain):
    def weights(self, losses, gramian=None, tasks=None):
        torch.rand(())
        return super().weights(losses, gramian, tasks)


class DrawsFromPython(Plain):
    def begin(self):
        random.random()  # noqa: S311 - the generator that is watched


class BeginsAnywhere(Plain):
    def begin(self):
        self.ones += 1e-12 * next(COUNT)


class Decays(Learned):
    def parameter_groups(self):
        return [{"params": list(self.parameters())}]


class DecaysALittle(Learned):
    def parameter_groups(self):
        return [{"params": list(self.parameters()), "weight_decay": 0.01}]


class LearnsNothing(Learned):
    def weights(self, losses, gramian=None, tasks=None):
        answer = super().weights(losses, gramian, tasks)
        return Weighting(answer.weights.detach(), answer.penalty.detach())


class LearnsElsewhere(Learned):
    def parameter_groups(self):
        return [{"params": [nn.Parameter(torch.zeros(()))], "weight_decay": 0.0}]


class LearnsTwice(Learned):
    def parameter_groups(self):
        return [*super().parameter_groups(), {"params": [self.scales[0]], "weight_decay": 0.0}]


class LooksAhead(Plain):
    """A sound strategy that lets each weight fall as far as the held-out losses would with it."""

    looks_ahead = True

    def trial(self, tasks=None):
        return self.ones[self._present(tasks, self.ones)]

    def foresee(self, slopes, tasks=None):
        if self.training and slopes.isfinite().all():
            present = self._present(tasks, slopes)
            self.ones[present] = (self.ones[present] - 0.1 * slopes.sum(0)).clamp(0.1, 10)


class LooksAheadPerhaps(LooksAhead):
    looks_ahead = "yes"


class TriesThemAll(LooksAhead):
    def trial(self, tasks=None):
        return self.ones.clone()


class AsksOfThemAll(LooksAhead):
    def objectives(self, tasks=None):
        return torch.eye(self.n_tasks, dtype=torch.float64)


class CountsTrials(LooksAhead):
    def begin(self):
        self.register_buffer("trials", torch.zeros((), dtype=torch.int64))

    def trial(self, tasks=None):
        self.trials += self.training
        return super().trial(tasks)


class LearnsFromNaN(LooksAhead):
    def foresee(self, slopes, tasks=None):
        if self.training:
            present = self._present(tasks, slopes)
            self.ones[present] = (self.ones[present] - 0.1 * slopes.sum(0)).clamp(0.1, 10)


class WatchesNaN(Plain):
    watches_step = True

    def observe(self, losses, tasks=None):
        if self.training:
            present = self._present(tasks, losses)
            self.ones[present] = (0.9 * self.ones[present] + 0.1 * losses).clamp(0.1, 10)


class WritesToSlopes(LooksAhead):
    def foresee(self, slopes, tasks=None):
        slopes *= 0.5
        super().foresee(slopes, tasks)


class Prints(Plain):
    def weights(self, losses, gramian=None, tasks=None):
        print(f"{len(losses)} losses")  # noqa: T201
        return super().weights(losses, gramian, tasks)


class RefusesAll(Plain):
    def __init__(self, n_tasks) -> None:
        raise ValueError(f"there must be exactly 2 tasks; received {n_tasks}")


class CannotBeBuilt(Plain):
    def __init__(self, n_tasks) -> None:
        raise KeyError("lambda")


class AsksForMore(Plain):
    def __init__(self, n_tasks, batch_size) -> None:
        super().__init__(n_tasks)


class CannotWeigh(Plain):
    def weights(self, losses, gramian=None, tasks=None):
        raise ZeroDivisionError("division by zero")


# Strategies that are odd and sound.


class DrawsLots(Strategy):
    """Random weights, from a generator of its own whose state is in a buffer."""

    def __init__(self, n_tasks, *, seed: int = 0) -> None:
        super().__init__(n_tasks)
        self.register_buffer("generator", torch.Generator().manual_seed(seed).get_state())

    def weights(self, losses, gramian=None, tasks=None):
        generator = torch.Generator()
        generator.set_state(self.generator)
        drawn = torch.randn(len(losses), dtype=torch.float64, generator=generator)
        if self.training:
            self.generator.copy_(generator.get_state())
        return Weighting(torch.softmax(drawn, 0))


class Opposes(Measured):
    """The weights of equal projections, which may be negative."""

    over = Over.PARAMETERS

    def weights(self, losses, gramian=None, tasks=None):
        norms = gramian.diagonal().clamp(min=0).sqrt()
        units = torch.where(norms > 0, 1 / norms, 0)
        cosines = units[:, None] * gramian * units  # of any scale
        raw = torch.linalg.pinv(cosines, hermitian=True, rtol=1e-8).sum(1) * units
        total = raw.abs().max()
        return Weighting(raw / total if total > 0 else torch.ones_like(raw))


class KeepsHistory(Strategy):
    """The rates of the last two steps, a count of all steps, and a table of pairs of tasks."""

    def __init__(self, n_tasks, *, temperature: float = 2.0) -> None:
        super().__init__(n_tasks)
        self.temperature = temperature
        self.register_buffer("last", torch.full((n_tasks, 2), torch.nan, dtype=torch.float64))
        self.register_buffer("pairs", torch.zeros(n_tasks, n_tasks, dtype=torch.float64))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def weights(self, losses, gramian=None, tasks=None):
        present = self._present(tasks, losses)
        last = self.last[present]
        rates = torch.where(last[:, 1] > 0, last[:, 0] / last[:, 1], 1.0).nan_to_num(1.0).clamp(0, 1e3)
        if self.training:
            self.steps += 1
            self.last[present] = torch.stack([losses, last[:, 0]], 1)
            self.pairs[present[:, None], present] += 1
        return Weighting(len(losses) * torch.softmax(rates / self.temperature, 0))


class ElectsSigns(Plain):
    """No weighted sum: each parameter gets the gradients whose sign is that of most."""

    needs = Needs.JACOBIAN
    over = Over.PARAMETERS

    def combine(self, losses, jacobian, tasks=None):
        elected = jacobian.sign().sum(0).sign()
        jacobian *= jacobian.sign() == elected
        return self.weights(losses, None, tasks)._replace(direction=jacobian.sum(0))


class TrainsHeadsPlainly(Learned):
    """Heads with weights of their own."""

    def weights(self, losses, gramian=None, tasks=None):
        return super().weights(losses, gramian, tasks)._replace(head_weights=torch.ones_like(losses))


class Watches(Plain):
    """Weights from how far a step took each loss down, averaged over epochs."""

    watches_step = True

    def begin(self):
        for name in ("before", "fall", "factors"):
            self.register_buffer(name, torch.ones_like(self.ones))

    def weights(self, losses, gramian=None, tasks=None):
        present = self._present(tasks, losses)
        if self.training:
            self.before[present] = losses
        return Weighting(self.factors[present])

    def observe(self, losses, tasks=None):
        present = self._present(tasks, losses)
        known = (self.before[present] > 0) & (losses > 0)
        ratio = torch.where(known, losses / self.before[present], 1.0)
        self.fall[present] = 0.5 * self.fall[present] + 0.5 * ratio.nan_to_num(1.0).clamp(0.1, 10)

    def end_epoch(self):
        self.factors.copy_(self.fall)


class WeighsClasses(Strategy):
    """For classifications alone, with options that are lists: one value for each task, and one of its own length."""

    def __init__(
        self, n_tasks, loss_kinds, n_classes, *, factors: tuple[float, ...] = (1.0, 2.0), rates: tuple[float, ...] = ()
    ) -> None:
        super().__init__(n_tasks)
        if set(loss_kinds) != {"classification"}:
            raise ValueError(f"every loss must be a classification's; received {loss_kinds}")
        if len(factors) != n_tasks:
            raise ValueError(f"factors needs one value for each task; received {len(factors)} for {n_tasks}")
        self.register_buffer("factors", torch.tensor(factors).double() / torch.tensor(n_classes).log())

    def weights(self, losses, gramian=None, tasks=None):
        return Weighting(self.factors[self._present(tasks, losses)])
