"""Where grouped-query heads go: against a construction by hand, and by properties over all small sizes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainers.parallel.gqa_layout import GQALayout, default_kv_size_multiplier, needs_kv_copies

ORDERS = ("tiled", "adjacent")


@st.composite
def layouts(draw, order=None):
    """Any valid layout: tp = m * a, K * m a multiple of tp, H a multiple of K * m."""
    multiplier = draw(st.integers(1, 6))
    ranks_per_copy = draw(st.integers(1, 6))
    kv_heads = ranks_per_copy * draw(st.integers(1, 5))
    num_heads = kv_heads * multiplier * draw(st.integers(1, 4))
    return GQALayout(
        num_heads, kv_heads, multiplier * ranks_per_copy, multiplier, order or draw(st.sampled_from(ORDERS))
    )


def slots_by_hand(layout):
    """Head of each slot, by repeating the list of heads as the layout's name says."""
    heads = list(range(layout.num_kv_heads))
    if layout.order == "tiled":
        return heads * layout.kv_size_multiplier
    return [head for head in heads for _ in range(layout.kv_size_multiplier)]


def joined(layout, per_rank):
    return [x for rank in range(layout.tp_size) for x in per_rank(rank)]


@given(layouts())
def test_slots_repeat_the_heads_and_split_evenly(layout):
    assert joined(layout, layout.kv_heads) == slots_by_hand(layout)
    assert {len(layout.kv_heads(rank)) for rank in range(layout.tp_size)} == {layout.slots_per_rank}


@given(layouts())
def test_queries_of_a_slot_attend_its_head(layout):
    """Each slot takes the next g of the queries that attend its head: by counting, without the closed formula."""
    group = layout.num_heads // layout.num_kv_heads
    waiting = [list(range(head * group, (head + 1) * group)) for head in range(layout.num_kv_heads)]
    expected = []
    for head in slots_by_hand(layout):
        expected += waiting[head][: layout.queries_per_slot]
        del waiting[head][: layout.queries_per_slot]
    assert not any(waiting)
    assert joined(layout, layout.query_heads) == expected == list(layout.query_order())


@given(layouts("tiled"))
def test_tiled_queries_follow_the_formula_of_the_specification(layout):
    for rank in range(layout.tp_size):
        expected = []
        for j in range(layout.slots_per_rank):
            s = rank * layout.slots_per_rank + j
            k, c = s % layout.num_kv_heads, s // layout.num_kv_heads
            g = layout.num_heads // (layout.num_kv_heads * layout.kv_size_multiplier)
            first = k * (layout.num_heads // layout.num_kv_heads) + c * g
            expected += range(first, first + g)
        assert list(layout.query_heads(rank)) == expected


@given(layouts())
def test_query_order_is_a_permutation_that_its_inverse_undoes(layout):
    order, inverse = layout.query_order(), layout.inverse_query_order()
    assert sorted(order) == list(range(layout.num_heads))
    assert [order[i] for i in inverse] == list(range(layout.num_heads))


@given(layouts("adjacent"))
def test_adjacent_leaves_queries_in_natural_order(layout):
    assert layout.query_order() == tuple(range(layout.num_heads))


@given(layouts("tiled"))
def test_the_two_orders_pair_queries_with_heads_alike(layout):
    """Up to a permutation of slots they are the same: slots as sets of (key-value head, its queries)."""
    other = GQALayout(layout.num_heads, layout.num_kv_heads, layout.tp_size, layout.kv_size_multiplier, "adjacent")

    def slots(of):
        heads, queries = joined(of, of.kv_heads), of.query_order()
        g = of.queries_per_slot
        return {(head, queries[s * g : (s + 1) * g]) for s, head in enumerate(heads)}

    assert slots(layout) == slots(other)


@given(layouts())
def test_without_copies_the_orders_are_one(layout):
    if layout.kv_size_multiplier == 1:
        assert layout.query_order() == tuple(range(layout.num_heads))
        assert layout.shared_groups() == tuple((rank,) for rank in range(layout.tp_size))


@given(layouts())
def test_first_slots_find_each_head_once_in_order(layout):
    slots = slots_by_hand(layout)
    assert [slots[s] for s in layout.first_slots()] == list(range(layout.num_kv_heads))


@given(layouts())
def test_shared_groups_are_the_ranks_connected_by_heads(layout):
    """Merge groups as long as two of them hold the same head: by brute force."""
    groups = [({rank}, set(layout.kv_heads(rank))) for rank in range(layout.tp_size)]
    merged = True
    while merged:
        merged = False
        for i, (ranks, heads) in enumerate(groups):
            for j in range(i + 1, len(groups)):
                if heads & groups[j][1]:
                    groups[i] = (ranks | groups[j][0], heads | groups[j][1])
                    del groups[j]
                    merged = True
                    break
            if merged:
                break
    assert {tuple(sorted(ranks)) for ranks, _ in groups} == set(layout.shared_groups())
    for ranks, heads in groups:
        for rank in ranks:
            assert layout.shared_group(rank) == tuple(sorted(ranks))
            assert layout.shared_heads(rank) == tuple(sorted(heads))


def test_eight_queries_two_heads_four_ranks():
    """The table in docs/parallel.md."""
    tiled, adjacent = (GQALayout(8, 2, 4, order=order) for order in ORDERS)
    assert tiled.kv_size_multiplier == 2
    assert [tiled.kv_heads(r) for r in range(4)] == [(0,), (1,), (0,), (1,)]
    assert [tiled.query_heads(r) for r in range(4)] == [(0, 1), (4, 5), (2, 3), (6, 7)]
    assert tiled.shared_groups() == ((0, 2), (1, 3))
    assert [adjacent.kv_heads(r) for r in range(4)] == [(0,), (0,), (1,), (1,)]
    assert [adjacent.query_heads(r) for r in range(4)] == [(0, 1), (2, 3), (4, 5), (6, 7)]
    assert adjacent.shared_groups() == ((0, 1), (2, 3))


def test_adjacent_copies_may_share_a_rank_or_straddle_two():
    assert GQALayout(8, 4, 4, 2, "adjacent").kv_heads(1) == (1, 1)
    assert GQALayout(8, 4, 4, 2, "adjacent").shared_groups() == ((0,), (1,), (2,), (3,))
    straddling = GQALayout(12, 6, 4, 2, "adjacent")
    assert [straddling.kv_heads(r) for r in range(4)] == [(0, 0, 1), (1, 2, 2), (3, 3, 4), (4, 5, 5)]
    assert straddling.shared_groups() == ((0, 1), (2, 3))


@pytest.mark.parametrize(
    ("kv_heads", "tp", "needed", "multiplier"), [(8, 8, False, 1), (8, 4, False, 1), (2, 8, True, 4), (6, 4, True, 1)]
)
def test_when_copies_are_needed_and_how_many(kv_heads, tp, needed, multiplier):
    assert needs_kv_copies(kv_heads, tp) is needed
    assert default_kv_size_multiplier(kv_heads, tp) == multiplier


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ((8, 2, 4, 3), r"tp_size 4 does not divide by kv_size_multiplier 3.*kv_size_multiplier=2 fits"),
        ((8, 2, 4, 1), r"= 2 does not divide by tp_size 4; kv_size_multiplier=2 fits"),
        ((24, 6, 4, 0), r"kv_size_multiplier=1: .* = 6 does not divide by tp_size 4; kv_size_multiplier=2 fits"),
        ((6, 2, 4, 2), r"num_heads 6 does not divide by .* = 4; no kv_size_multiplier fits: change tp_size"),
        ((8, 3, 8, 2), r"num_heads=8, num_kv_heads=3, tp_size=8, kv_size_multiplier=2"),
        ((8, 0, 4, 2), r"num_kv_heads=0.*positive"),
        ((8, 2, 4, -1), r"kv_size_multiplier=-1.*positive"),
    ],
)
def test_invalid_sizes_are_named_with_a_mend(sizes, message):
    with pytest.raises(ValueError, match=message):
        GQALayout(*sizes)


def test_unknown_order_and_rank_are_named():
    with pytest.raises(ValueError, match="'striped'.*tiled.*adjacent"):
        GQALayout(8, 2, 4, order="striped")
    with pytest.raises(ValueError, match="rank 4"):
        GQALayout(8, 2, 4).kv_heads(4)
