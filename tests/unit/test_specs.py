"""The shapes of rows and features."""

import pytest

from mtlkit import FeatureSpec, InputSpec

TABLE = InputSpec(parts={"numeric": InputSpec((3,)), "categorical": InputSpec((2,), (4, 7))})


def test_the_size_of_a_row_is_the_product_of_its_shape():
    assert InputSpec((3, 4, 5)).size == 60
    assert FeatureSpec((7,)).size == 7
    assert FeatureSpec(()).size == 1


def test_the_size_of_a_row_of_parts_is_their_sum():
    assert TABLE.size == 5
    assert FeatureSpec(parts={"coarse": FeatureSpec((8, 2, 2)), "fine": FeatureSpec((4, 4, 4))}).size == 96


def test_a_message_shows_shapes():
    assert f"{InputSpec((1, 8, 8))}" == "(1, 8, 8)"
    assert f"{TABLE}" == "{numeric: (3,), categorical: (2,)}"
    assert f"{FeatureSpec(parts={'fine': FeatureSpec((4,))})}" == "{fine: (4,)}"


def test_shapes_leave_out_how_many_categories_there_are():
    other = InputSpec(parts={"numeric": InputSpec((3,)), "categorical": InputSpec((2,), (9, 1))})
    assert other != TABLE
    assert other.shapes == TABLE.shapes


def test_what_covers_several_has_the_most_categories_of_each():
    other = InputSpec(parts={"numeric": InputSpec((3,)), "categorical": InputSpec((2,), (9, 1))})
    assert InputSpec.covering([TABLE, other]).parts["categorical"] == InputSpec((2,), (9, 7))
    assert InputSpec.covering([TABLE]) == TABLE
    assert InputSpec.covering([InputSpec((2,), (4, 7)), InputSpec((2,))]) == InputSpec((2,))  # one holds numbers


@pytest.mark.parametrize("other", [InputSpec((3,)), InputSpec(parts={"numeric": InputSpec((3,))})])
def test_nothing_covers_several_shapes(other):
    with pytest.raises(ValueError, match="rows of several shapes"):
        InputSpec.covering([TABLE, other])


def test_specs_can_be_told_apart_in_a_set():
    assert len({TABLE, InputSpec((3,)), InputSpec((3,)), InputSpec((3,), (1, 1, 1))}) == 3
