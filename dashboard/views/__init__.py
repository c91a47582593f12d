"""The dashboard's views: of a run as a whole, and of parts of the report, by their names."""
