"""What libraries are told of a batch is made once for all layers; what they leave in padding is cleared."""

import torch

from stentor.layers.attention.libraries.tables import TablesOf, clear_padding
from stentor.layers.context import DecodeBatch, PrefillBatch


def test_a_batch_is_told_once_and_the_next_anew() -> None:
    tables_of, table = TablesOf(), torch.tensor([[3, 4], [5, 0]])
    decode = DecodeBatch(torch.tensor([16, 2]), torch.tensor([64, 82]), table)
    tables = tables_of(decode)
    assert tables.lengths.tolist() == [17, 3]
    assert tables.blocks.dtype == tables.lengths.dtype == torch.int32
    assert tables_of(decode) is tables
    contexts = torch.tensor([5, 9], dtype=torch.int32)
    rows = torch.zeros(4, dtype=torch.int64)
    prefill = PrefillBatch(rows, rows, table, torch.tensor([0, 2, 4]), contexts, (), rows)
    assert tables_of(prefill).lengths.tolist() == [5, 9]


def test_padding_is_cleared_whatever_is_in_it() -> None:
    out = torch.full((4, 3), torch.nan)
    out[:2] = 1
    assert torch.equal(clear_padding(out, torch.tensor([0, 1, 2]))[2:], torch.zeros(2, 3))
    assert (out[:2] == 1).all()
