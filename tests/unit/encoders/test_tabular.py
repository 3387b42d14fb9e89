"""The tabular encoder normalises numbers, fills in what is missing, embeds categories, and knows the unknown."""

from __future__ import annotations

import math

import pytest
import torch

from mtlkit import FeatureSpec, InputSpec
from mtlkit.encoders import Tabular

NAN = math.nan
TABLE = InputSpec(parts={"numeric": InputSpec((2,)), "categorical": InputSpec((2,), categories=(3, 4))})
TRAIN = {
    "numeric": torch.tensor([[1.0, 10.0], [3.0, NAN], [5.0, 30.0]], dtype=torch.float64),
    "categorical": torch.tensor([[0, 3], [2, 1], [0, 1]]),
}


def columns(encoder, rows):
    """Return what the columns of rows become, before any layer."""
    return encoder.columns(rows)


@pytest.fixture(name="prepared")
def fixture_prepared(stirred):
    def prepared(inputs=TABLE, rows=TRAIN, **options):
        encoder = stirred(Tabular, inputs, **{"width": 4, "embedding": 2} | options)
        encoder.prepare(rows)
        return encoder

    return prepared


class TestNumbers:
    def test_are_normalised_by_the_training_rows_and_filled_with_their_means(self, prepared):
        rows = {"numeric": torch.tensor([[7.0, 20.0], [NAN, 40.0]]), "categorical": torch.tensor([[0, 1], [0, 1]])}
        made = columns(prepared(), rows)
        deviations = math.sqrt(8 / 3), 10.0  # of 1, 3, 5 and of 10, 30
        expected = torch.tensor([[4 / deviations[0], 0.0], [0.0, 2.0]], dtype=torch.float64)
        torch.testing.assert_close(made[:, :2], expected)

    def test_are_taken_as_they_are_where_that_is_asked(self, prepared):
        made = columns(prepared(normalize="none"), TRAIN)
        torch.testing.assert_close(made[:, :2], torch.tensor([[1.0, 10], [3, 20], [5, 30]], dtype=torch.float64))

    def test_may_be_followed_by_whether_they_were_missing(self, prepared):
        made = columns(prepared(indicators=True), TRAIN)
        assert made.shape == (3, 2 + 2 + 2 * 2)
        assert made[:, 2:4].tolist() == [[0, 0], [0, 1], [0, 0]]

    @pytest.mark.parametrize("value", [0.0, 0.1, 1e9 / 3, -7.0])
    def test_that_are_all_one_or_all_missing_become_0(self, value):
        encoder = Tabular(InputSpec((2,)), width=3)
        rows = torch.full((50, 2), value)
        rows[:, 1] = NAN
        encoder.prepare(rows)
        assert encoder.columns(rows).abs().max() < 1e-5
        moved = encoder.columns(rows + torch.tensor([1.0, 0.0]))
        assert moved.isfinite().all()

    def test_may_be_whole_numbers_where_the_part_says_so(self, prepared):
        ages = InputSpec(parts={"numeric": InputSpec((1,), categories=(90,))})
        rows = {"numeric": torch.tensor([[20], [40]])}
        encoder = prepared(ages, rows)
        assert columns(encoder, rows).tolist() == [[-1.0], [1.0]]

    def test_without_preparation_are_taken_as_they_are(self):
        encoder = Tabular(InputSpec((2,)), width=3)
        assert encoder.columns(torch.tensor([[1.0, 2.0]])).tolist() == [[1.0, 2.0]]


class TestCategories:
    def test_of_each_column_have_vectors_of_their_own(self, prepared):
        encoder = prepared()
        vectors = encoder.columns.vectors.weight  # 3 and an unknown one, then 4 and an unknown one
        made = columns(encoder, TRAIN)[:, 2:]
        for row, (first, second) in zip(made, TRAIN["categorical"].tolist(), strict=True):
            assert torch.equal(row, torch.cat([vectors[first], vectors[4 + second]]))

    @pytest.mark.parametrize(
        ("row", "places"),
        [
            ([1, 3], (3, 7)),  # no training row has 1 in the first column
            ([0, 0], (0, 8)),  # nor 0 in the second
            ([3, 4], (3, 8)),  # beyond what was counted
            ([-1, 1], (3, 5)),
            ([99, -99], (3, 8)),
        ],
    )
    def test_that_no_training_row_has_are_unknown(self, prepared, row, places):
        encoder = prepared()
        made = columns(encoder, {"numeric": TRAIN["numeric"][:1], "categorical": torch.tensor([row])})[0, 2:]
        assert torch.equal(made, torch.cat([encoder.columns.vectors.weight[place] for place in places]))

    def test_unknown_ones_start_from_0(self):
        encoder = Tabular(TABLE)
        weight = encoder.columns.vectors.weight
        assert [place for place in range(9) if weight[place].eq(0).all()] == [3, 8]

    def test_prepared_twice_are_those_of_the_second_time(self, prepared):
        encoder = prepared()
        encoder.prepare(TRAIN | {"categorical": torch.tensor([[1, 0]] * 3)})
        assert encoder.columns.is_known.nonzero().flatten().tolist() == [1, 4]

    def test_may_stand_alone(self, prepared):
        encoder = prepared(InputSpec((2,), categories=(3, 4)), TRAIN["categorical"])
        both = prepared()
        alone = columns(encoder, TRAIN["categorical"].to(torch.int32))
        assert alone.shape == (3, 4)
        assert encoder.columns.is_known.equal(both.columns.is_known)


class TestBlocks:
    def test_of_an_mlp(self, prepared):
        encoder = prepared(blocks="mlp", depth=3, activation="tanh")
        h = columns(encoder, TRAIN)
        for layer in encoder.layers:
            h = torch.tanh(h @ layer[0].weight.T + layer[0].bias)
        torch.testing.assert_close(encoder(TRAIN), h)
        assert encoder.features == FeatureSpec((4,))

    @pytest.mark.parametrize("norm", ["layer", "batch", "none"])
    def test_of_residual_blocks(self, prepared, norm):
        encoder = prepared(blocks="residual", depth=2, norm=norm, activation="tanh", expansion=3)
        state = encoder.state_dict()

        def normal(h, name):
            if norm == "none":
                return h
            dim = 1 if norm == "layer" else 0  # in training, batch statistics
            centred = h - h.mean(dim, keepdim=True)
            scaled = centred / (centred.square().mean(dim, keepdim=True) + 1e-5).sqrt()
            return scaled * state[f"{name}.weight"] + state[f"{name}.bias"]

        h = columns(encoder, TRAIN) @ state["layers.0.weight"].T + state["layers.0.bias"]
        for name in ("layers.1", "layers.2.0"):
            hidden = normal(h, f"{name}.norm") @ state[f"{name}.hidden.0.weight"].T + state[f"{name}.hidden.0.bias"]
            assert hidden.shape == (3, 12)
            h = h + torch.tanh(hidden) @ state[f"{name}.leave.weight"].T + state[f"{name}.leave.bias"]
        torch.testing.assert_close(encoder(TRAIN), torch.tanh(normal(h, "layers.2.1.0")))


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        (InputSpec((1, 8, 8)), r"takes the columns of a table, a vector, and a row here has shape \(1, 8, 8\)"),
        (InputSpec(parts={"numeric": InputSpec((2, 2))}), r"the part 'numeric' of a row here has shape \(2, 2\)"),
        (InputSpec(parts={"numbers": InputSpec((2,))}), "of the parts 'numeric' and 'categorical', .* has 'numbers'"),
        (
            InputSpec(parts={"categorical": InputSpec((2,))}),
            "here it does not; what is measured belongs in .*'numeric'",
        ),
    ],
)
def test_what_is_no_table_is_refused(inputs, said):
    with pytest.raises(ValueError, match=said):
        Tabular(inputs)
