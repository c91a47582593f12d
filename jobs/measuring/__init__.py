"""Figures over what others made: spurious scores, evaluations of counterfactuals."""
