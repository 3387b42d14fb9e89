"""The ``ltb`` architecture: a tree of stages, whose branches are learned."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from mtlkit.architectures.base import Architecture
from mtlkit.architectures.requirements import stage_shapes
from mtlkit.encoders.base import Encoder
from mtlkit.layers import Positive
from mtlkit.specs import InputSpec

__all__ = ["LTB"]

Temperature = Annotated[float, Field(gt=0)]


class LTB(Architecture):
    """Learning to branch (Guo, Lee, Ulbricht, ICML 2020).

    There are `branches` encoders. Each stage but the first, of each of them, has as its parent the stage before it of
    one of the encoders, and each task the last stage of one: a tree. In training it is searched: what node c takes is

        x_c = sum_i d_ci y_i,    d_c = softmax((theta_c + gumbel noise) / tau)

    over all nodes i of the stage before it, whose outputs are y_i; d_c is close to a draw of one parent with the
    probabilities softmax(theta_c), the closer the lower tau. In evaluation each node takes its likeliest parent.

    tau falls geometrically from one temperature to the other over `search` batches of training; a step in which several
    sources draw batches has several. Then the search is over: in training too each takes its likeliest parent, and what
    is in nobody's branch is computed no more. Tasks in one branch are given one and the same features.

    Departures: the schedule of tau and the number of nodes in a stage are this library's own; theta learns from the
    first batch on; once the tree is found, training goes on from the weights at hand, where the paper's last network is
    trained anew.

    All encoders are shared, for all tasks train them until the search is over, and so are the thetas but the tasks'
    own; each encoder's last layer stands last. In the search all of it is computed whichever tasks take part.

    Args:
        make_encoder: Builds an encoder; called once for each branch.
        n_tasks: The number of tasks.
        inputs: What a row is.
        branches: How many nodes each stage has; as many as there are tasks by default.
        search: Over how many batches of training the tree is searched.
        initial_temperature: tau at the first batch: the higher, the more even a mixture is taken.
        final_temperature: tau at the last batch of the search.

    Raises:
        ValueError: If the encoder has no parameters, no stages, or a stage that does not make one tensor.
    """

    batches: Tensor  # of training, so far

    def __init__(
        self,
        make_encoder: Callable[[], Encoder],
        n_tasks: int,
        inputs: InputSpec,
        *,
        branches: Annotated[int, Field(ge=2, le=1000)] | None = None,
        search: Positive = 1000,
        initial_temperature: Temperature = 5.0,
        final_temperature: Temperature = 0.1,
    ) -> None:
        super().__init__()
        self.search, self.initial, self.final = search, initial_temperature, final_temperature
        first = make_encoder()
        self.features = first.features
        between = len(stage_shapes(first, inputs, "ltb")) - 1
        count = branches or n_tasks
        self.encoders: Any = nn.ModuleList([first, *(make_encoder() for _ in range(count - 1))])
        self.parents = nn.ParameterList(torch.zeros(count, count) for _ in range(between))
        self.leaves = nn.ParameterList(torch.zeros(count) for _ in range(n_tasks))
        self.register_buffer("batches", torch.zeros((), dtype=torch.int64))

    @property
    def temperature(self) -> float:
        """Tau at the next batch of training."""
        done = min(1.0, int(self.batches) / max(1, self.search - 1))
        return float(self.initial * (self.final / self.initial) ** done)

    @property
    def is_searching(self) -> bool:
        """Whether the tree is still open, in training."""
        return int(self.batches) < self.search

    def forward(self, inputs: Any, tasks: Sequence[int]) -> list[Any]:
        contexts = [encoder.context(inputs) for encoder in self.encoders]
        if not self.training or not self.is_searching:
            return self._along_the_tree(inputs, tasks, contexts)
        tau = self.temperature
        if torch.is_grad_enabled():
            self.batches += 1
        made = torch.stack([e.through(0, inputs, c) for e, c in zip(self.encoders, contexts, strict=True)])
        for index, theta in enumerate(self.parents):
            taken = torch.einsum("ci,i...->c...", F.gumbel_softmax(theta, tau), made)  # [nodes, B, *]
            each = zip(self.encoders, taken, contexts, strict=True)
            made = torch.stack([encoder.through(index + 1, hidden, context) for encoder, hidden, context in each])
        shares = [F.gumbel_softmax(self.leaves[task], tau) for task in tasks]
        return [torch.einsum("i,i...->...", share, made) for share in shares]

    def tree(self) -> list[list[int]]:
        """Return the likeliest parent of each node, stage by stage from the second on, and of each task at last."""
        rows = [*self.parents, torch.stack(list(self.leaves))]
        return [theta.argmax(-1).tolist() for theta in rows]

    def _along_the_tree(self, inputs: Any, tasks: Sequence[int], contexts: Sequence[Any]) -> list[Any]:
        *parents, leaves = self.tree()
        made: dict[tuple[int, int], Tensor] = {}  # by stage and node: each once, and only where a task needs it

        def at(stage: int, node: int) -> Tensor:
            if (stage, node) not in made:
                hidden = at(stage - 1, parents[stage - 1][node]) if stage else inputs
                made[stage, node] = self.encoders[node].through(stage, hidden, contexts[node])
            return made[stage, node]

        return [at(len(parents), leaves[task]) for task in tasks]

    def shared_parameters(self) -> list[nn.Parameter]:
        return [*self.encoders.parameters(), *self.parents]

    def last_shared_layer(self) -> Sequence[nn.Module]:
        return [encoder.last_layer() for encoder in self.encoders]
