"""Collections: embedded once, indexed, searched."""
