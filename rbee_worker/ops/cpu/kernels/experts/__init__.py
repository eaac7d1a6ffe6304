"""Mixtures of experts: routing, grouping, summing."""
