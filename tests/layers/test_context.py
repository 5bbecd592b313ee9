"""What a batch says of itself."""

import torch

from stentor.layers.context import PrefillBatch, PrefillSpan


def test_the_longest_of_a_prefill_is_known_or_bounded_by_all_its_rows() -> None:
    rows, table = torch.zeros(12, dtype=torch.int64), torch.zeros(2, 4, dtype=torch.int64)
    starts, contexts = torch.tensor([0, 3, 10]), torch.tensor([3, 23])
    spans = (PrefillSpan(0, 3, 3), PrefillSpan(3, 10, 23))
    assert PrefillBatch(rows, rows, table, starts, contexts, spans, rows).longest == 7
    assert PrefillBatch(rows, rows, table, starts, contexts, (), rows).longest == 12
