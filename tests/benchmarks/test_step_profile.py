"""The kinds of operators of the profile of a step."""

from __future__ import annotations

from benchmarks.step_profile import kind_of


def test_operators_are_counted_by_what_they_do() -> None:
    assert kind_of("aten::addmm") == "products of matrices"
    assert kind_of("aten::_scaled_dot_product_flash_attention_for_cpu") == "attention"
    assert kind_of("aten::_softmax_backward_data") == "attention"
    assert kind_of("aten::mul") == "everything else"
