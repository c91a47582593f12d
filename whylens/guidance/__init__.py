"""Guided generation: objectives, views, the optimiser, counterfactuals."""
