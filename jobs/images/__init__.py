"""Collections: embedded once and indexed; pictures as they are stored."""
