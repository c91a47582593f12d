"""The report's parts: of each, what its rows are, how they are read, and what is said of them."""
