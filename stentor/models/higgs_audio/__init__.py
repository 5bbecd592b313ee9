"""What the Higgs Audio models have in common: their tokenizers, a prompt's limits, the stages of sound."""
