"""Where a classifier is wrong: systematic errors in real images, slices of mistakes, groups."""
