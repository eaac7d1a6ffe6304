"""Mixtures of experts: the choice of experts, their products for few rows and for many."""
