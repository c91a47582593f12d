"""What a classifier relies on: components, findings, the images that show them."""
