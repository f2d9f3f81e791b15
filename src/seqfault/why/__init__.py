"""Taking sites out of a protocol, and what follows: which line is needed, for which operation, and which is not."""
