"""Higgs Audio v2: a Llama backbone whose layers have a second feed-forward network for codes."""
