"""Pretraining of encoders: weights for ``--model.pretrained``."""
