"""The names and shapes of a backbone are those that transformers gives it."""

from types import SimpleNamespace

from stentor.models.higgs_audio.shapes import backbone_shapes


def test_names_are_those_of_transformers() -> None:
    from transformers import Qwen3Config, Qwen3Model

    config = Qwen3Config(
        vocab_size=1, hidden_size=24, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8,
    )  # fmt: skip
    geometry = SimpleNamespace(
        hidden_size=24, intermediate_size=40, num_layers=2, num_heads=4, num_kv_heads=2, head_dim=8
    )
    theirs = {f"body.{name}": tuple(values.shape) for name, values in Qwen3Model(config).named_parameters()}
    del theirs["body.embed_tokens.weight"]
    assert backbone_shapes(geometry, "body.") == theirs
