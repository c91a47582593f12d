"""What people do with findings: label, repair, search, ask about an image of their own."""
