"""What guided generation costs on this machine, beside what it could cost: `whylens bench`."""
