"""The planted world itself: scenes, drawings and their truth, from a seed; numpy only."""
