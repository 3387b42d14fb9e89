"""Guard: a step of training in which a value that is NaN or infinite moves no weight, and what is done about it.

The weights and the optimizer's state move last, when all that goes into them is known to be finite. What moves before
them is kept, and put back where a value is not finite: the step is then as if it had not begun, and the policy of the
run says how to go on. In a step that is sound nothing more is computed than without a guard.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from mtlkit.engine.diagnosis import diagnose
from mtlkit.engine.events import Action, NonFinite
from mtlkit.engine.step import Drawn, LeftOut, Pass, draw, forward_backward, observe, take_step
from mtlkit.engine.tally import Tally
from mtlkit.engine.undo import Undo
from mtlkit.errors import NonFiniteError
from mtlkit.experiment import Experiment

__all__ = ["Guard", "Outcome", "Refused"]

AFTER = "loss after the step"


class Outcome(NamedTuple):
    """What became of a step.

    Attributes:
        passes: The passes that weights moved by, or would have but for an overflow.
        found: What was not finite in it.
        is_skipped: Whether no weight moved for that, or for a gradient that overflowed in float16.
    """

    passes: list[Pass]
    found: list[NonFinite]
    is_skipped: bool = False

    @property
    def action(self) -> Action:
        """What was done about that."""
        if self.is_skipped:
            return "skip-step"
        return "go-on" if all(each.what == AFTER for each in self.found) else "skip-task"

    @property
    def spoilt(self) -> list[str]:
        """The labels of the tasks that had values which were not finite, each once."""
        return list(dict.fromkeys(each.task for each in self.found if each.task is not None))


class Refused(Exception):  # noqa: N818 - the loop makes an error of it, once the run is saved
    """The run ends at this step: its policy says so, or it has been as many as may be in a row.

    Attributes:
        error: What was raised first.
        found: What was not finite.
        in_a_row: How many steps in a row there were, where that is why.
        has_moved: Whether weights moved, so that there is no way back but to a checkpoint.
    """

    def __init__(
        self, error: NonFiniteError, found: Sequence[NonFinite], *, in_a_row: int = 0, has_moved: bool = False
    ) -> None:
        super().__init__(str(error))
        self.error = error
        self.found = found
        self.in_a_row = in_a_row
        self.has_moved = has_moved


class Guard:
    """Takes steps.

    Args:
        experiment: What is trained.
        tally: What was skipped so far; kept up to date.
    """

    def __init__(self, experiment: Experiment, tally: Tally) -> None:
        self._experiment = experiment
        self._tally = tally
        self._undo = Undo(experiment)

    def take(self, step: int) -> Outcome:
        """Take a step, counted from 0, or leave it at that.

        Raises:
            Refused: If a value is not finite, and the run is to end.
        """
        experiment, policy = self._experiment, self._experiment.plan.non_finite
        self._undo.remember()
        drawn: list[Drawn] = []
        left_out: dict[int, LeftOut] = {}
        found: list[NonFinite] = []
        done: list[Pass] = []
        is_taken = False
        while True:
            passes: list[Pass | None] = []
            try:
                self._run(step, drawn, left_out, passes)
                done = [each for each in passes if each is not None]
                # In a step that no task takes part in, nothing moves: weights, momenta, what a strategy knows.
                is_taken = bool(done) and take_step(experiment)
            except NonFiniteError as error:
                fresh = self._diagnosed(drawn, left_out, error, passes)
                found += fresh
                goes_on = policy == "skip-task" and _leave_out(experiment, left_out, fresh)
                self._check_limit(error, found, is_skipped=not goes_on)
                if not goes_on:
                    return self._noted(Outcome([], found, is_skipped=True))
            else:
                break
        if done and not is_taken:
            self._undo.forget_what_was_learned()
        elif is_taken and experiment.strategy.watches_step:
            self._observe(done[-1], found)
        if found:
            self._undo.mend()
        return self._noted(Outcome(done, found, is_skipped=not is_taken and bool(done or found)))

    def rewind(self) -> None:
        """Go back to where the last step began, the rows that were drawn included."""
        self._undo.rewind()

    # --- parts ---

    def _run(self, step: int, drawn: list[Drawn], left_out: dict[int, LeftOut], passes: list[Pass | None]) -> None:
        """Run the passes of a step, each of which draws its rows once, however often it is run."""
        for number in range(self._experiment.plan.accumulate):
            if number == len(drawn):
                drawn.append(draw(self._experiment, step, number))
                left_out[number] = LeftOut()
            passes.append(
                forward_backward(self._experiment, step, number, drawn=drawn[number], left_out=left_out[number])
            )

    def _diagnosed(
        self, drawn: list[Drawn], left_out: dict[int, LeftOut], error: NonFiniteError, passes: list[Pass | None]
    ) -> list[NonFinite]:
        """Take the step back, and find out whose values were not finite."""
        self._undo.restore()
        number = len(passes) if len(passes) < self._experiment.plan.accumulate else None
        try:
            found = diagnose(self._experiment, drawn, left_out, error, number)
        except NonFiniteError as worse:  # the weights are it, so there is nothing to go back to
            raise Refused(worse, [NonFinite("weights")], has_moved=True) from error
        finally:
            self._undo.restore()
        return found

    def _check_limit(self, error: NonFiniteError, found: list[NonFinite], *, is_skipped: bool) -> None:
        plan = self._experiment.plan
        if plan.non_finite == "stop":
            raise Refused(error, found) from error
        in_a_row = self._tally.longest_with(Outcome([], found).spoilt, is_skipped=is_skipped)
        if in_a_row > plan.non_finite_limit:
            raise Refused(error, found, in_a_row=in_a_row) from error

    def _observe(self, last: Pass, found: list[NonFinite]) -> None:
        """Let the strategy see what the step made of the losses; it is not told of what is not finite."""
        experiment = self._experiment
        try:
            observe(experiment, last)
        except NonFiniteError as error:
            labels = [experiment.labels[last.tasks[place]] for place in error.places]
            found += [NonFinite(AFTER, label) for label in labels] or [NonFinite(AFTER)]
            if experiment.plan.non_finite == "stop":
                raise Refused(error, found, has_moved=True) from error

    def _noted(self, outcome: Outcome) -> Outcome:
        """Count what became of a step."""
        if outcome.found:
            self._tally.note(outcome.spoilt, is_skipped=outcome.is_skipped)
        if outcome.passes and not outcome.is_skipped:
            present = {self._experiment.labels[task] for one in outcome.passes for task in one.tasks}
            self._tally.end_rows(present.difference(outcome.spoilt))
        return outcome


def _leave_out(experiment: Experiment, left_out: dict[int, LeftOut], found: Sequence[NonFinite]) -> bool:
    """Leave the tasks found out of their passes; return whether there is anything new to be left out."""
    before = dict(left_out)
    for each in found:
        if each.number is None:
            continue
        now = left_out[each.number]
        if each.what == "slope":  # a trial step that led too far shows nothing of any task
            left_out[each.number] = now._replace(held_out=frozenset(range(len(experiment.tasks))))
        elif each.task is not None:
            task = frozenset([experiment.labels.index(each.task)])
            if each.what == "held-out loss":
                left_out[each.number] = now._replace(held_out=now.held_out | task)
            else:
                left_out[each.number] = now._replace(training=now.training | task)
    return left_out != before
