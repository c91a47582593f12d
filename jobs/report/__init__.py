"""A run as a page: what is read of it, the words, the templates, the figure."""
