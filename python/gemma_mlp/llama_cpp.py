"""Captures what a model computes."""
