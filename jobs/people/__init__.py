"""What people do with findings: label, repair, ask about an image of their own."""
