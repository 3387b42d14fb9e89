"""Stems: each computes what it says, says truthfully what it makes, and refuses what it cannot take."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mtlkit import InputSpec
from mtlkit.options import signature_of
from mtlkit.stems import STEMS, Chain, Embed, Flatten, Linear, Patch, Resize

IMAGE, TABLE = InputSpec((1, 6, 4)), InputSpec((3,), (4, 2, 9))
MIXED = InputSpec(parts={"numeric": InputSpec((2,)), "kind": InputSpec((), (5,))})
SEEN = settings(max_examples=40, deadline=None)


def seeded(make):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return make()


def image(n, spec=IMAGE):
    return torch.randn(n, *spec.shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", STEMS)
def test_every_stem_has_options_that_can_be_checked(name):
    assert signature_of(STEMS[name]).facts == ("inputs",)


class TestResize:
    @SEEN
    @given(st.integers(1, 9), st.integers(1, 9), st.sampled_from(["bilinear", "bicubic", "nearest"]))
    def test_it_makes_the_size_that_it_says(self, height, width, mode):
        stem = Resize(InputSpec((2, 5, 7)), size=(height, width), mode=mode)
        assert stem.rows == InputSpec((2, height, width))
        assert stem(torch.zeros(3, 2, 5, 7)).shape == (3, 2, height, width)

    def test_an_even_image_stays_even(self):
        for mode in ("bilinear", "bicubic", "nearest"):
            made = Resize(IMAGE, size=(3, 9), mode=mode)(torch.full((2, 1, 6, 4), 0.7))
            torch.testing.assert_close(made, torch.full((2, 1, 3, 9), 0.7))

    def test_an_image_of_that_size_is_left_as_it_is(self):
        x = image(2)
        assert torch.equal(Resize(IMAGE, size=(6, 4))(x), x)

    def test_detail_is_smoothed_before_it_could_alias(self):
        stripes = torch.tensor([0.0, 1.0]).repeat(16).expand(1, 1, 8, 32)
        made = Resize(InputSpec((1, 8, 32)), size=(8, 4))(stripes)
        torch.testing.assert_close(made[..., 1:3], torch.full((1, 1, 8, 2), 0.5), rtol=0, atol=0.02)

    def test_halving_takes_the_mean_of_each_block_but_for_its_neighbours(self):
        made = Resize(InputSpec((1, 2, 2)), size=(1, 1))(torch.tensor([[[[1.0, 2.0], [3.0, 6.0]]]]))
        assert made.item() == pytest.approx(3.0)

    def test_what_is_no_image_is_refused(self):
        with pytest.raises(ValueError, match=r"resize takes images.*a row here is \(5,\)"):
            Resize(InputSpec((5,)), size=(2, 2))


class TestPatch:
    def test_each_patch_is_a_vector_of_its_pixels(self):
        stem, x = Patch(InputSpec((2, 4, 6)), size=(2, 3)), image(2, InputSpec((2, 4, 6)))
        made = stem(x)
        assert stem.rows == InputSpec((4, 12))
        for number, (top, left) in enumerate([(0, 0), (0, 3), (2, 0), (2, 3)]):
            assert torch.equal(made[:, number], x[:, :, top : top + 2, left : left + 3].flatten(1))

    def test_what_cannot_be_cut_is_refused(self):
        with pytest.raises(ValueError, match="6 x 4 pixels cannot be cut into patches of 4 x 4"):
            Patch(IMAGE)
        with pytest.raises(ValueError, match="patch takes images"):
            Patch(TABLE)


class TestFlatten:
    def test_a_row_becomes_a_vector_and_keeps_its_categories(self):
        assert Flatten(IMAGE).rows == InputSpec((24,))
        assert Flatten(TABLE).rows == TABLE
        assert torch.equal(Flatten(IMAGE)(image(3)), image(3).flatten(1))
        assert Flatten(InputSpec(()))(torch.zeros(4)).shape == (4, 1)

    def test_parts_are_refused(self):
        with pytest.raises(ValueError, match=r"one tensor.*embed joins parts"):
            Flatten(MIXED)


class TestLinear:
    def test_it_maps_rows_to_the_shape_given(self):
        stem = seeded(lambda: Linear(IMAGE, shape=(2, 3), activation="tanh"))
        expected = torch.tanh(image(5).flatten(1) @ stem.map.weight.T + stem.map.bias).reshape(5, 2, 3)
        torch.testing.assert_close(stem(image(5)), expected)
        assert stem.rows == InputSpec((2, 3))

    @pytest.mark.parametrize(("spec", "told"), [(MIXED, "is {numeric"), (TABLE, "holds categories")])
    def test_what_is_no_number_is_refused(self, spec, told):
        with pytest.raises(ValueError, match=told):
            Linear(spec, shape=(4,))


class TestEmbed:
    def test_each_category_has_a_vector_of_its_own(self):
        stem = seeded(lambda: Embed(TABLE, dimension=3))
        made = stem(torch.tensor([[3, 1, 8], [0, 1, 2]]))
        assert stem.rows == InputSpec((9,))
        tables = [table.weight for table in stem.tables[0]]
        assert torch.equal(made[0], torch.cat([tables[0][3], tables[1][1], tables[2][8]]))
        assert torch.equal(made[1], torch.cat([tables[0][0], tables[1][1], tables[2][2]]))

    def test_the_vectors_grow_with_the_number_of_categories(self):
        assert Embed(InputSpec((3,), (1, 9, 1000))).rows == InputSpec((1 + 5 + 50,))

    def test_numbers_stay_beside_categories(self):
        stem = seeded(lambda: Embed(MIXED, dimension=2)).double()
        rows = {"numeric": torch.tensor([[1.5, -2.0]], dtype=torch.float64), "kind": torch.tensor([4])}
        made = stem(rows)
        assert stem.rows == InputSpec((4,))
        assert made[0, :2].tolist() == [1.5, -2.0]
        assert torch.equal(made[0, 2:], stem.tables[1][0].weight[4])

    def test_categories_that_are_not_known_are_told_of(self):
        with pytest.raises(ValueError, match="a column holds categories from 0 to 9, and 0 to 8 are known"):
            Embed(TABLE)(torch.tensor([[0, 0, 9], [0, 0, 0]]))
        with pytest.raises(ValueError, match="a column of 'kind' holds categories from -1 to -1, and 0 to 4 are known"):
            Embed(MIXED)({"numeric": torch.zeros(1, 2), "kind": torch.tensor([-1])})

    def test_numbers_alone_are_refused(self):
        with pytest.raises(ValueError, match="holds numbers"):
            Embed(IMAGE)


def test_a_chain_passes_rows_on():
    first = Resize(IMAGE, size=(4, 4))
    chain = Chain([first, Patch(first.rows, size=(2, 2))])
    assert chain.rows == InputSpec((4, 4))
    assert torch.equal(chain(image(2)), chain.stems[1](first(image(2))))
